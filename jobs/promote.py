"""`srgan-ray promote` as a job: `ray job submit --working-dir . -- python jobs/promote.py …`."""

import sys

from srgan_ray.cli import main

if __name__ == "__main__":
    main(["promote", *sys.argv[1:]])
