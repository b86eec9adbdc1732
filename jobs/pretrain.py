"""`srgan-ray pretrain` as a job: `ray job submit --working-dir . -- python jobs/pretrain.py …`."""

import sys

from srgan_ray.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
