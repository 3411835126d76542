"""The console commands lipnet-train, lipnet-certify and lipnet-export, as Hydra entry points."""
