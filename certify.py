"""Certify a checkpoint, or check its certificates again: the same as lipnet-certify.

python certify.py RUN                                   # the run's checkpoints/best.ckpt
python certify.py ckpt_path=RUN/checkpoints/best.ckpt
python certify.py verify=RUN/certificates.tsv
"""

from lipnet.commands.certify import main

if __name__ == "__main__":
    main()
