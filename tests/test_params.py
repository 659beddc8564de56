"""params.yaml: what is wrong is named, before any work."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from qedistill.cli import main
from qedistill.errors import UserError
from qedistill.params import load_params

ROOT = Path(__file__).parents[1]


def write(tmp_path: Path, **changes: Any) -> Path:
    """params.yaml with `group__key=value` changed; None as a key's group deletes nothing, `...` deletes the key."""
    raw = yaml.safe_load((ROOT / "profiles/pyapi.yaml").read_text())
    for name, value in changes.items():
        *groups, key = name.split("__")
        tree = raw
        for group in groups:
            tree = tree[group]
        if value is ...:
            del tree[key]
        else:
            tree[key] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_profiles_are_valid(profile: Path) -> None:
    assert load_params(profile).seed >= 0


def test_the_default_is_the_profile_pyapi() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "profiles/pyapi.yaml").read_text()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dpo__betta": 0.1}, "unknown parameter dpo.betta"),
        ({"extra": {}}, "unknown parameter extra"),
        ({"dpo__beta": -0.1}, "dpo.beta: Input should be greater than 0 (is -0.1)"),
        ({"dpo__beta": "0.1"}, "dpo.beta"),
        ({"seed": ...}, "missing parameter seed"),
        ({"sft__lora__r": 0}, "sft.lora.r"),
        ({"sft__epochs": True}, "sft.epochs"),
        ({"generation__temperature": 0.0}, "generation: temperature must be above 0 where samples is above 1"),
        ({"feedback__samples": 0}, "feedback.samples must be above 0 where pairs.candidates is student"),
        ({"pairs__strategy": "best"}, "pairs.strategy"),
        ({"retrieval__query_weight": 0}, "retrieval.query_weight"),
        ({"collection__tests": {}}, "collection.tests"),
        ({"collection__tests": {"a/b": "x"}}, "collection.tests"),
        ({"collection__tests": {"train": "x"}}, "tests must not be named train"),
        ({"collection__tests": {"told": "x"}}, "tests must not be named told"),
        ({"collection__validation": 0}, "retrieval.query_weight must be a number where collection.validation is 0"),
        ({"collection__document": "a \x07 text"}, "collection.document: holds control characters"),
        ({"teacher__generator": "local"}, "model must be set where generator is local"),
        ({"teacher__exemplars__k": 3}, "ids must be k = 3"),
        ({"teacher__generator": "api"}, "model must be set where generator is api"),
        ({"teacher__generator": "api", "teacher__model": "m", "teacher__max_cost": 1.0}, "api.prices must be set"),
        ({"teacher__tolerance": 1.0}, "teacher.tolerance"),
        ({"teacher__api__extra_body": {"stream": True}}, "teacher.api: extra_body must not set stream"),
        ({"teacher__api__base_url": "https://user:password@host/v1"}, "teacher.api.base_url"),
        ({"generation__server": "localhost:8000"}, "generation.server"),
        ({"student__sha256": None}, "sha256 must be set"),
        ({"feedback__retriever": "dense"}, "dense.encoder must be set where feedback.retriever is dense"),
        ({"dense__expansion": "fuse"}, "dense.expansion"),
        ({"dense__encoder": "x", "index__prebuilt": "y"}, "dense.index must name a prebuilt index"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as error:
        load_params(write(tmp_path, **changes))
    assert named in error.value.message
    assert "\n" not in error.value.message


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown parameter sft\.x; .*dpo\.beta"):
        load_params(write(tmp_path, sft__x=1, dpo__beta=0))


def test_a_misspelt_name_is_told_once_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_params(
            write(tmp_path, dpo__epochs=..., dpo__epoch=1.0, teacher__api__timout=3.0, teacher__api__timeout=...)
        )
    assert error.value.message.endswith(
        "unknown parameter teacher.api.timout, did you mean timeout?; unknown parameter dpo.epoch, did you mean epochs?"
    )


def test_an_error_of_several_groups_has_no_empty_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="params.yaml: feedback.samples must be above 0"):
        load_params(write(tmp_path, feedback__samples=0))


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("key", ["dpo__beta", "dpo__learning_rate", "teacher__max_cost", "retrieval__bm25__k1"])
def test_numbers_are_finite(tmp_path: Path, key: str, number: float) -> None:
    with pytest.raises(UserError, match=key.replace("__", ".")):
        load_params(write(tmp_path, **{key: number}))


def test_extra_body_is_json(tmp_path: Path) -> None:
    for value in (date(2026, 1, 1), float("inf")):
        with pytest.raises(UserError, match="extra_body holds what JSON cannot"):
            load_params(write(tmp_path, teacher__api__extra_body={"day": value}))


def test_ids_may_be_numbers(tmp_path: Path) -> None:
    loaded = load_params(
        write(tmp_path, teacher__exemplars__ids=[1, 2, "3", 44], collection__train=2019, collection__tests={"a": 20})
    )
    assert loaded.teacher.exemplars.ids == ["1", "2", "3", "44"]
    assert (loaded.collection.train, loaded.collection.tests) == ("2019", {"a": "20"})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("dpo.learning_rate=5e-5", 5e-5),
        ("dpo.learning_rate=0.00005", 5e-5),
        ("dpo.learning_rate=5.0e-5", 5e-5),
        ("dpo.learning_rate=1E-6", 1e-6),
        ("sft.learning_rate=1e-7", 1e-7),
        ("dpo.beta=1e+1", 10.0),
        ("retrieval.bm25.k1=1e-05", 1e-5),
        ("collection.language=no", "no"),
        ("collection.document=yes", "yes"),
        ("tracking.experiment=on", "on"),
        ("collection.train=null", None),
        ("sft.lora.targets=[q_proj,v_proj]", ["q_proj", "v_proj"]),
    ],
)
def test_what_dvc_sets_arrives(tmp_path: Path, setting: str, value: object) -> None:
    from dvc.utils.hydra import apply_overrides

    path = write(tmp_path)
    apply_overrides(path, [setting])
    found: Any = load_params(path)
    for name in setting.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value


def test_no_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("")
    with pytest.raises(UserError, match="holds no groups"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="params.yaml:1: not YAML"):
        load_params(tmp_path / "params.yaml")


def test_use_puts_a_profile_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    (tmp_path / ".params.yaml.swp").touch()  # an editor has it open
    assert CliRunner().invoke(main, ["use", "smoke"]).exit_code == 0
    assert (tmp_path / "params.yaml").read_text() == (ROOT / "profiles/smoke.yaml").read_text()
    result = CliRunner().invoke(main, ["use", "none"])
    assert result.exit_code == 1
    assert "pyapi, pyapi-full, smoke" in result.output


@pytest.mark.parametrize("key", ["teacher.api.key_variable", "generation.key_variable"])
def test_a_key_where_its_variable_belongs_is_not_told(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError) as error:
        load_params(write(tmp_path, **{key.replace(".", "__"): "sk-0123-secret"}))
    assert key in error.value.message and "secret" not in error.value.message


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"api_key": "abc"}, "api_key"),
        ({"apiKey": "abc"}, "apiKey"),
        ({"extra_headers": {"Authorization": "Bearer abcdefgh"}}, "extra_headers.Authorization"),
        ({"extra_headers": {"X-Api-Key": "abc"}}, "extra_headers.X-Api-Key"),
        ({"metadata": [{"user": {"client_secret": "abc"}}]}, "metadata.user.client_secret"),
        # Azure's own data: its search service's key.
        ({"data_sources": [{"parameters": {"authentication": {"type": "api_key", "key": "abc"}}}]},
         "data_sources.parameters.authentication.key"),
        ({"password": "abc"}, "password"), ({"access_token": "abc"}, "access_token"), ({"token": "abc"}, "token"),
        ({"user": "sk-abcdefghijklmnop0123"}, "user"), ({"tags": ["gsk_abcdefghijklmnop0123"]}, "tags"),
        ({"user": "it is the-known-key-1"}, "user"),
    ],
)  # fmt: skip
def test_a_secret_in_extra_body_is_refused_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], name: str
) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["teacher"]["api"] |= {"extra_body": body, "key_variable": "SOME_KEY"}
    monkeypatch.setenv("SOME_KEY", "the-known-key-1")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match="teacher.api: extra_body") as error:
        load_params(tmp_path / "params.yaml")
    assert f"extra_body.{name} looks like a secret" in error.value.message and "key_variable" in error.value.message
    assert "abc" not in error.value.message and "the-known" not in error.value.message


def test_what_is_no_secret_in_extra_body_passes(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["teacher"]["api"]["extra_body"] = {
        "max_tokens": None, "max_completion_tokens": 128, "stop": ["<|im_end|>", "skip_special_tokens"],
        "stop_token": "<|im_end|>", "min_tokens": 4, "prompt_cache_key": "mine", "safety_identifier": "team-7",
        "thinking": {"type": "enabled", "budget_tokens": 64}, "token": None, "logit_bias": {"50256": -100},
        "chat_template_kwargs": {"enable_thinking": False}, "user": "somebody", "password": None,
        "authentication": {"type": "managed_identity"},
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    assert load_params(tmp_path / "params.yaml").teacher.api.extra_body["prompt_cache_key"] == "mine"
