"""`srgan-ray rollback` as a job: `ray job submit --working-dir . -- python jobs/rollback.py …`."""

import sys

from srgan_ray.cli import main

if __name__ == "__main__":
    main(["rollback", *sys.argv[1:]])
