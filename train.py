"""Train a 1-Lipschitz network, then certify its best checkpoint: the same as lipnet-train.

python train.py experiment=quickstart
python train.py experiment=table3/gs_soc_4 paths.data_dir=/path/to/data
"""

from lipnet.commands.train import main

if __name__ == "__main__":
    main()
