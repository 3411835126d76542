"""Write a checkpoint's model as a file that runs without lipnet: the same as lipnet-export.

python export.py ckpt_path=RUN/checkpoints/best.ckpt output=model.onnx
"""

from lipnet.commands.export import main

if __name__ == "__main__":
    main()
