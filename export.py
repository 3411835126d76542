"""Write a checkpoint's model as a file that runs without lipnet, or as a folder to share: the same as lipnet-export.

python export.py RUN output=model.onnx
python export.py RUN output=my-network
"""

from lipnet.commands.export import main

if __name__ == "__main__":
    main()
