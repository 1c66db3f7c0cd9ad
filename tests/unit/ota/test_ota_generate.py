"""The generated files are what protocol.cddl and topics.py say, and both compilers accept them."""

import shutil
import subprocess

import pytest

from tinyfleet_ota import topics
from tinyfleet_ota.cddl import read_schema
from tinyfleet_ota.errors import ProtocolError
from tinyfleet_ota.generate import C_FILE, generated_files
from tinyfleet_ota.generate_python import wire_type


def test_regenerating_changes_nothing():
    for path, text in generated_files().items():
        assert path.read_text() == text, f"{path.name}: run python -m tinyfleet_ota.generate"


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_header_compiles_and_names_reasons(compiler, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    reasons = read_schema().enums["reason"]
    checks = "".join(
        f'if (strcmp(fleet_reason_name({v}), "{n}") || FLEET_REASON_{n} != {v}) return 1;' for n, v in reasons.items()
    )
    source = tmp_path / "names.c"
    source.write_text(
        '#include <string.h>\n#include "fleet_protocol.h"\n'
        f'int main(void) {{ {checks} return strcmp(fleet_reason_name(99), "UNKNOWN"); }}\n'
    )
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion", f"-I{C_FILE.parent}"]
    subprocess.run([compiler, *flags, str(source), "-o", str(tmp_path / "names")], check=True)
    subprocess.run([str(tmp_path / "names")], check=True)


@pytest.mark.parametrize("text", ["m = {\n &(a: 0) => uint,\n &(b: 0) => uint,\n}", "m = {\n a: uint,\n}"])
def test_cddl_outside_the_subset_is_refused(text):
    with pytest.raises(ValueError):
        read_schema(text)


def test_unknown_type_is_refused():
    with pytest.raises(ValueError, match="float"):
        wire_type(read_schema("a = 1\n"), "float")


def test_topics():
    blob = bytes(range(16))
    assert topics.chunk(blob, 1024, 7) == "fleet/v1/b/AAECAwQFBgcICQoLDA0ODw/1024/7"
    assert topics.blob_id_bytes(topics.blob_id_text(blob)) == blob
    assert topics.device_of(topics.state("m4-7")) == "m4-7"
    assert topics.device_of("fleet/v1/d/UP/state") is None


@pytest.mark.parametrize("device", ["", "a/b", "+", "#", "A", "x" * 65, "a\n"])
def test_topics_refuse_hostile_device_ids(device):
    with pytest.raises(ProtocolError):
        topics.state(device)


@pytest.mark.parametrize(
    "text", ["", "AAECAwQFBgcICQoLDA0ODw==", "AAECAwQFBgcICQoLDA0OD!", "AAECAwQFBgcICQoLDA0ODx", "A" * 23]
)
def test_id_text_is_strict(text):
    with pytest.raises(ProtocolError):
        topics.blob_id_bytes(text)
