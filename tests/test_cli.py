"""The command line, as a user calls it."""

import re
import subprocess
import sys

import pytest

from fastmlp import cli

pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def _restore_defaults():
    yield
    import fastmlp.backend

    fastmlp.backend._process_backend = fastmlp.backend._process_threads = None


def accuracy(printed):
    return float(re.search(r"test accuracy ([\d.]+)%", printed)[1])


def test_train_learns_the_digits(capsys):
    assert cli.main(["train"]) == 0
    printed = capsys.readouterr().out
    assert "1433 training and 364 test samples" in printed
    assert "network 64-128-10, float64" in printed
    assert len(re.findall(r"^epoch +\d+  cost \d+\.\d+  accuracy [\d.]+%$", printed, re.MULTILINE)) >= 20
    assert "time per epoch" in printed
    assert accuracy(printed) >= 95


def test_every_option(capsys):
    words = "train digits --hidden 20 10 --epochs 3 --alpha 0.1 --threads 1 --dtype float32 --seed 7 --backend numpy"
    assert cli.main(words.split()) == 0
    printed = capsys.readouterr().out
    assert "network 64-20-10-10, float32, alpha 0.1, numpy backend, threads: 1" in printed
    assert "after 3 epochs" in printed


def test_a_net_without_hidden_layers(capsys):
    assert cli.main(["train", "--hidden", "--epochs", "2"]) == 0
    assert "network 64-10," in capsys.readouterr().out


def test_train_learns_mnist(capsys, mnist_data):
    """The notebook's net, alpha and epochs: 89 % or more on the test images."""
    assert cli.main("train mnist --hidden 128 --alpha 0.5 --epochs 100".split()) == 0
    assert accuracy(capsys.readouterr().out) >= 89


@pytest.mark.parametrize(
    "words",
    [
        "train --epochs 0",
        "train --alpha -1",
        "train --alpha nan",
        "train --threads 0",
        "train --hidden 0",
        "train --seed -1",
    ],
)
def test_a_wrong_value_is_one_line_and_status_2(capsys, words):
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastmlp: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", ["", "trian", "train cifar", "train --dtype float16", "train --epochs many"])
def test_wrong_words_are_status_2(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words.split())
    assert stopped.value.code == 2


def test_missing_data_is_status_2(capsys, monkeypatch):
    monkeypatch.delenv("FASTMLP_DATA", raising=False)
    assert cli.main(["train", "mnist"]) == 2
    assert "FASTMLP_DATA" in capsys.readouterr().err


def test_divergence_is_status_1(capsys):
    assert cli.main(["train", "--alpha", "1e308"]) == 1
    assert "smaller alpha" in capsys.readouterr().err


def test_info(capsys):
    assert cli.main(["info"]) == 0
    assert "backend:" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_ctrl_c_evaluates_what_was_learned_and_is_status_130():
    words = [
        sys.executable,
        "-c",
        "from fastmlp import cli; raise SystemExit(cli.main())",
        "train",
        "--epochs",
        "10000000",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        process.send_signal(2)
        printed, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "test accuracy" in printed
    assert "Traceback" not in error
