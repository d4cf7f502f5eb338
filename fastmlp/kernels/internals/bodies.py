"""Compiler options for functions that only compiled code calls, of which only the copy in each kernel becomes code."""

from typing import Any

from fastmlp.kernels.internals import missing

# Passes that find nothing in a body: it has no closures, context managers, overloads to be inlined or literals to be
# unrolled, raises nothing, and nobody reads its annotations. Each would analyse it once more.
_NEEDLESS = {
    "WithLifting", "InlineClosureLikes", "RewriteDynamicRaises", "MakeFunctionToJitFunction", "InlineInlinables",
    "DeadBranchPrune", "FindLiterallyCalls", "LiteralUnroll", "LiteralPropagationSubPipelinePass", "InlineOverloads",
    "AnnotateTypes", "NopythonRewrites", "NoPythonSupportedFeatureValidation", "DumpParforDiagnostics",
}  # fmt: skip

try:
    from numba.core.codegen import JITCodeLibrary
    from numba.core.compiler import Compiler

    for _name in ("_optimize_final_module", "_finalize_final_module", "_finalize_dynamic_globals"):
        getattr(JITCodeLibrary, _name)
except (ImportError, AttributeError):
    missing.append("JITCodeLibrary")
    COMPILER: Any = None
else:

    class _NoEnvironment:
        """Stand-in for the code generator: ignores `set_env`, because a body has no machine code of its own."""

        @staticmethod
        def set_env(name: str, environment: Any) -> None:
            pass

    class _BodyLibrary(JITCodeLibrary):  # type: ignore[misc]
        """The code of a body, neither optimised nor made machine code on its own, which Numba would do in each caller.

        ``plain`` gives all of that up.
        """

        plain = False

        @property
        def codegen(self) -> Any:
            return super().codegen if self.plain else _NoEnvironment

        def _optimize_final_module(self) -> None:
            if self.plain:
                super()._optimize_final_module()

        def _finalize_final_module(self) -> None:
            if self.plain:
                super()._finalize_final_module()
                return
            self._finalize_dynamic_globals()
            self._finalized = True

    class _BodyCompiler(Compiler):  # type: ignore[misc]
        def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
            super().__init__(typing, target, _BodyLibrary(target.codegen(), "body"), *rest)

        def define_pipelines(self) -> Any:
            managers = super().define_pipelines()
            if not _BodyLibrary.plain:
                for manager in managers:
                    manager.passes = [one for one in manager.passes if one[0].__name__ not in _NEEDLESS]
            return managers

    COMPILER = _BodyCompiler


def give_up() -> None:
    """Compile bodies as Numba compiles all functions, from now on."""
    if COMPILER is not None:
        missing.append("JITCodeLibrary")
        _BodyLibrary.plain = True


# A body is never called from Python: it needs no wrapper for that, nor one for C.
WITHOUT_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
BODY: dict[str, Any] = WITHOUT_WRAPPERS | ({} if COMPILER is None else {"pipeline_class": COMPILER})
