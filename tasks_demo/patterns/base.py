"""The base class of all patterns: it runs deliveries, checks declarations, computes operation keys and checks publications."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partialmethod
from typing import Any, ClassVar, NoReturn, Self

from celery import shared_task
from celery.contrib.django.task import DjangoTask
from celery.exceptions import Reject

from tasks_demo.core.digest import digest
from tasks_demo.core.exceptions import ContradictoryDeclaration, DeliveryError, InvalidOperationKey
from tasks_demo.core.lifecycle import Subject, about, described
from tasks_demo.core.semantics import PROMISES, Promise
from tasks_demo.leases.keys import validate_operation
from tasks_demo.patterns import declarations
from tasks_demo.patterns.arguments import BoundArguments, Operation, Parameters, bind, parameters_of
from tasks_demo.patterns.operation_header import operation_of_delivery
from tasks_demo.patterns.publishing import check_options_of_call, encodable, prepared
from tasks_demo.patterns.requeue import requeue_original
from tasks_demo.patterns.results import LenientBackend
from tasks_demo.patterns.transactions import refuse_in_transaction


class PatternTask(DjangoTask):  # type: ignore[type-arg]
    """Abstract base of the patterns. Declare tasks with ``@AcksLate.task(...)`` or ``@shared_task(base=AcksLate, ...)``.

    The first form refuses a contradictory declaration when the module is imported; the second when Celery builds the task: at
    the latest when a worker starts or the first job is published.
    """

    abstract = True
    Request = "tasks_demo.hooks.request:ObservedRequest"

    #: Name of the pattern in ``semantics.PROMISES``.
    pattern: ClassVar[str] = ""
    #: Options whose value the promise depends on: option -> (the value it must have, why).
    requires: ClassVar[dict[str, tuple[Any, str]]] = {}
    #: Computes the operation key from the task's arguments, which are passed by name. None, or a None result: the task ID is the
    #: key. It runs where the job is published; for a message without a key it runs in the worker, perhaps in the event loop of
    #: its main process, which must not block: compute the key from the arguments alone, and query no database.
    operation: ClassVar[Callable[..., str | None] | None] = None
    #: The registered books that count this task's effects ("bank", "shop"), for the ledger's verdict; empty: none.
    books: ClassVar[str] = ""
    #: Database alias of the pattern's own tables; None: Django's routers decide.
    using: ClassVar[str | None] = None
    #: The message is parked after this many deliveries that began and never ended; None: never. Late acknowledgement only.
    max_attempts: ClassVar[int | None] = None
    retry_on_worker_lost = False  # Celery before 5.7 has no such option

    #: True: the body does not run unless its start is recorded. False: it runs anyway, and the missing events are counted.
    needs_ledger: ClassVar[bool] = False
    #: Which of its task IDs the ledger records: True, False, or a share like 0.01. See ``ledger.sampling``.
    ledger: ClassVar[bool | float] = True

    _parameters: ClassVar[tuple[Parameters, ...]] = ()
    _operation: ClassVar[Operation | None] = None
    #: The ``__call__`` of a base class after the pattern in the MRO, for example of the app's own task class.
    _around: ClassVar[Callable[..., Any] | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        declared = cls.__dict__.get("operation")
        if declared is not None and not isinstance(declared, staticmethod):
            if not callable(declared):
                raise ContradictoryDeclaration(
                    f"{cls.__name__}: operation must be a function of the task's arguments that returns the operation "
                    f"key, not {declared!r}. Write operation=lambda order_id, **_: f'charge:{{order_id}}'."
                )
            cls.operation = staticmethod(declared)
        own = set(cls.__dict__) - declarations.MADE
        if "_decorated" in cls.__dict__:
            declarations.refuse_unknown(str(cls.__name__), cls.__bases__[0], sorted(own))
        else:
            declarations.refuse_misspelt(str(cls.__name__), cls.__bases__, sorted(own))
        if "run" in cls.__dict__:
            for body in (inspect.getattr_static(cls, "run"), cls.__dict__.get("_decorated_fun")):
                declarations.check_body(str(cls.__name__), body)
            cls._parameters = parameters_of(cls)
            declarations.publish_as_errback(cls)
        around = declarations.cooperative(cls, PatternTask)
        cls._around = staticmethod(around) if around else None
        if cls.operation is not None:
            cls._operation = Operation(cls.operation)
            declarations.check_operation(cls)
        cls.check_final()

    @classmethod
    def check_final(cls, settled: bool = False) -> None:
        """Raise ContradictoryDeclaration if the class, with its current attributes, breaks the promise of its pattern.

        ``settled``: Celery has applied the settings. Time limits from settings are not compared here but when a job is published.
        """
        names = (*cls.requires, "max_attempts", "needs_ledger", "ledger", *declarations.TYPES)
        now = {name: getattr(cls, name) for name in names if hasattr(cls, name)}
        cls.check_options({**now, "soft_time_limit": None} if settled else now)
        if cls.pattern:
            declarations.check_protocol(cls)

    @classmethod
    def bind(cls, app: Any) -> Any:
        """As Celery's, which applies task_annotations; then check the declaration again, because these may have changed it."""
        super().bind(app)
        try:
            cls.check_final(settled=True)
        except ContradictoryDeclaration:
            app._tasks.pop(cls.name, None)  # so that the task cannot run even if the caller catches the error
            raise
        return app

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        """Raise ContradictoryDeclaration if an option breaks the promise of this pattern or has an invalid value."""
        cls.check_requires(options)
        declarations.check_types(str(cls.__name__), options)
        declarations.check_attempts(cls, options.get("max_attempts"))
        declarations.check_ledger(cls, options.get("needs_ledger", cls.needs_ledger), options.get("ledger", cls.ledger))

    @classmethod
    def check_requires(cls, options: dict[str, Any]) -> None:
        """Raise ContradictoryDeclaration if an option breaks the promise of this pattern."""
        for name, given in options.items():
            if name not in cls.requires:
                continue
            wanted, why = cls.requires[name]
            if bool(given) != bool(wanted):
                raise ContradictoryDeclaration(
                    f"{cls.__name__}: {name}={given!r} contradicts the pattern {cls.pattern}: {why} "
                    f"Leave {name} out, or use another pattern."
                )

    @classmethod
    def task(cls, **options: Any) -> Callable[[Callable[..., Any]], Self]:
        """Decorator: Celery's ``shared_task`` with this base, which refuses contradictory options at once."""
        declarations.refuse_unknown(str(cls.__name__), cls, options)
        cls.check_options(options)
        declared = options.get("operation")
        if declared is not None and not callable(declared):
            raise ContradictoryDeclaration(
                f"operation={declared!r} is not a function. Write operation=lambda order_id, **_: f'charge:{{order_id}}'."
            )
        decorate: Callable[[Callable[..., Any]], Self] = shared_task(base=cls, **options)

        def checked(body: Callable[..., Any]) -> Any:
            declarations.check_body(getattr(body, "__name__", repr(body)), body)
            return decorate(body)

        return checked

    # -- a delivery -------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one delivery under the protocol of the pattern. When called as a function, outside a worker, just run the body."""
        if self.request.called_directly:
            return self.run_directly(args, kwargs)
        with about(self.subject(args, kwargs, self.request.id or "", self.request.hostname or "")) as subject:
            return self.run_delivery(subject, args, kwargs)

    def run_delivery(self, subject: Subject, args: Any, kwargs: Any) -> Any:
        """Run the pattern's protocol around ``execution(self)``. Returns what Celery stores as the result."""
        raise NotImplementedError

    def run_directly(self, args: Any, kwargs: Any) -> Any:
        """Run the body of a task that is called as a function: there is no message, so nothing is claimed or recorded."""
        return self.run_body(*args, **kwargs)

    def run_body(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body; the pattern calls this when its protocol allows. To wrap every body, override it and call
        ``super().run_body(*args, **kwargs)``. This calls the ``__call__`` of a base class after the pattern, if there is one."""
        if self._around is not None:
            return self._around(self, *args, **kwargs)
        return self.run(*args, **kwargs)

    def drop_continuations(self) -> None:
        """Remove callbacks, the rest of the chain and the chord from this delivery, because its body was not run."""
        request: Any = self.request
        request.callbacks = request.chain = request.chord = None

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's, except that the delivery is requeued if the retry cannot be published. Celery would drop the job
        (celery/app/task.py rejects it without requeueing)."""
        try:
            return super().retry(*args, **kwargs)
        except Reject as error:
            requeue_original(self, "a retry", error.__cause__ or error.__context__ or error)

    @property
    def backend(self) -> Any:
        """Celery's result backend, whose failures neither fail nor lose the job."""
        return LenientBackend(super().backend)

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    # -- publishing -------------------------------------------------------------------------------------------------------

    def check_call(self, options: dict[str, Any]) -> None:
        """Raise ContradictoryDeclaration for options of one call that break the promise, or would have no effect."""
        check_options_of_call(self, options)

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """As Celery's: ``delay`` after the commit on the default database. A job that could not run is refused immediately."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(  # type: ignore[override]
        self, args: Any = None, kwargs: Any = None, **options: Any
    ) -> None:
        """As Celery's: ``apply_async`` after the commit. A job that could not run is refused immediately."""
        check_options_of_call(self, options)
        args, kwargs, options = prepared(self, args, kwargs, options)
        super().apply_async_on_commit(args, kwargs, **options)

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, *more: Any, **options: Any
    ) -> Any:
        """As Celery's, except that a job that could not run raises here, in the caller, and nothing is published.

        Raises InvalidOperationKey if ``operation`` fails or does not return text, TypeError for arguments that do not fit the
        body, and ArgumentsNotJson (a kombu EncodeError) for arguments that the serializer does not support.
        """
        # Retries and deferred copies of the running delivery are exempt: the caller did not write their options.
        if not task_id or task_id != self.request.id:
            check_options_of_call(self, options)
            refuse_in_transaction(self.name)
        with encodable(self, options):
            args, kwargs, options = prepared(self, args, kwargs, options)
            return super().apply_async(args, kwargs, task_id, *more, **options)

    def _refuse_bodies_elsewhere(self, how: str, *_: Any) -> NoReturn:
        """Refused: Celery runs such bodies as functions, inside a task of its own that is acknowledged early."""
        raise ContradictoryDeclaration(
            f"{self.name}: {how}() runs the bodies inside one of Celery's own tasks, where the pattern {self.pattern} does not "
            "apply: no claim, no count, no late acknowledgement. Nothing was published. Publish each job: "
            "group(task.s(each) for each in ...)."
        )

    map = partialmethod(_refuse_bodies_elsewhere, "map")
    chunks = partialmethod(_refuse_bodies_elsewhere, "chunks")
    starmap = partialmethod(_refuse_bodies_elsewhere, "starmap")

    @classmethod
    def promised(cls) -> Promise:
        """Return the promise of the pattern."""
        return PROMISES[cls.pattern]

    # -- arguments and operation key --------------------------------------------------------------------------------------

    def bound(self, args: Any, kwargs: Any) -> BoundArguments:
        """Return the arguments of a call by name. Raises TypeError for arguments that the body does not take."""
        try:
            return bind(self._parameters, args or (), kwargs or {})
        except TypeError as error:
            raise TypeError(f"{self.name}() {error}") from None

    def digest(self, args: Any, kwargs: Any) -> str:
        """Return the digest of task name and arguments, the same for every form of one call. Raises ArgumentsNotJson."""
        try:
            return self.bound(args, kwargs).digest(self.name)
        except TypeError as error:
            if isinstance(error, DeliveryError):
                raise
            return digest(self.name, args or (), kwargs or {})  # the body will refuse them

    def operation_key(self, args: Any, kwargs: Any, task_id: str) -> str:
        """Return the business identity of this work. Raises InvalidOperationKey, or TypeError for arguments that do not fit."""
        if self.operation is None or self._operation is None:
            return task_id
        bound = self.bound(args, kwargs)
        try:
            key = self._operation(bound)
        except Exception as error:
            raise InvalidOperationKey(
                f"{self.name}: `operation` failed for these arguments ({described(error)}), so the job has no key. Nothing was "
                "published or run. The function is called with each argument by name; correct it, or the arguments."
            ) from error
        return task_id if key is None else validate_operation(key)

    def subject(self, args: Any, kwargs: Any, task_id: str, worker: str = "") -> Subject:
        """Return the subject of this delivery's points. Raises what ``operation_key`` raises.

        Its operation key is the one that the publisher sent, if it was computed for these arguments; otherwise it is computed
        here, once per delivery.
        """
        if self.operation is None:
            key = task_id
        elif task_id and self.request.id == task_id:
            key = operation_of_delivery(self, args, kwargs)
        else:
            key = self.operation_key(args, kwargs, task_id)
        return self.subject_named(key, task_id, worker)

    def subject_named(self, operation: str, task_id: str, worker: str = "") -> Subject:
        """As ``subject``, for a known operation key."""
        return Subject(
            task_id, operation, self.pattern, worker, self.books, str(self.name), self.needs_ledger, float(self.ledger)
        )
