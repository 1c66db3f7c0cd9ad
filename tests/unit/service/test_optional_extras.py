"""What `make demo` installs is enough: no process of the service needs an extra until a setting asks for it."""

import subprocess
import sys

EXTRAS = ("psycopg", "obstore", "distributed", "dask", "mlflow", "onnxruntime", "pkcs11")
ROOMS = ("serve.api", "controller", "ingest", "builder", "est", "webhooks", "maintenance", "cli.main")


def test_every_process_is_imported_without_extras() -> None:
    hidden = "; ".join(f"sys.modules[{name!r}] = None" for name in EXTRAS)
    wanted = "; ".join(f"import tinyfleet_service.{room}" for room in ROOMS)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {hidden}; {wanted}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
