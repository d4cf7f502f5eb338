"""Completion of words by the shells themselves."""

import shutil
import subprocess
import sys

import pytest

from fastmlp import cli

# Calls the function that bash calls when Tab is pressed after the words, and prints its answers.
ASK = """
eval "$1"; shift
function_of() { [[ $(complete -p fastmlp) =~ -F\\ ([^ ]+) ]] && echo "${BASH_REMATCH[1]}"; }
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
"$(function_of)" fastmlp "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(run):
    """Return a function that returns the completion of a shell."""
    pytest.importorskip("shtab")

    def written(shell):
        status, printed, error = run(f"--print-completion {shell}")
        assert (status, error) == (0, "")
        return printed

    return written


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("pre", {"predict"}),
        ("train --optim", {"--optimizer"}),
        ("train --optimizer ad", {"adam", "adamw"}),
        ("train m", {"mnist", "mine.csv", "model.safetensors"}),
        ("evaluate model.safetensors dig", {"digits"}),
        ("predict m", {"mine.csv", "model.safetensors"}),
        ("train --plot f", {"folder"}),
    ],
)
def test_bash_completes(script, tmp_path, words, found):
    for name in ("mine.csv", "model.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    bash = ["bash", "--norc", "-c", ASK, "bash", script("bash"), "fastmlp", *words.split(" ")]
    answer = subprocess.run(bash, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert answer.stderr == ""
    assert set(answer.stdout.split()) == found


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_takes_its_completion(script, tmp_path):
    (tmp_path / "_fastmlp").write_text(script("zsh"))
    code = "fpath=($PWD $fpath); autoload -Uz compinit && compinit -D -u && print $_comps[fastmlp]; zsh -n _fastmlp"
    answer = subprocess.run(["zsh", "-f", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert (answer.stdout, answer.stderr) == ("_fastmlp\n", "")


def test_without_shtab_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    status, printed, error = run("--print-completion bash")
    assert (status, printed) == (2, "")
    assert 'python -m pip install ".[completion]" in a clone of fastmlp' in error


def test_another_shell_is_refused(capsys):
    assert cli.main(["--print-completion", "tcsh"]) == 2
    assert "choose from" in capsys.readouterr().err
