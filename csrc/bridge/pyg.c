/* pyg.c: the G object: go(), its life, join and result. What it tells of itself: pylook.c. */
#include "bridge.h"

#include <unistd.h>

PyTypeObject *G_Type;
static PyObject *excepthook; /* called with a G whose exception nobody will see */

/* ---------------------------------------------------------------- functions that block */

enum { MAX_BLOCKERS = 1024 };
static PyObject *blockers; /* set of what entry() returns for functions that blocked an M undeclared */
static PyTypeObject *partial;
static _Atomic uint32_t nblockers;

/* What stands for fn, and keeps nothing else alive: its code, its address in C, or its type. New
 * reference; NULL with an exception set. */
static PyObject *entry(PyObject *fn) {
    PyObject *inner = NULL, *key;
    if (Py_IS_TYPE(fn, partial) && (fn = inner = PyObject_GetAttrString(fn, "func")) == NULL) return NULL;
    if (PyMethod_Check(fn)) fn = PyMethod_GET_FUNCTION(fn);
    if (PyFunction_Check(fn))
        key = Py_NewRef(PyFunction_GET_CODE(fn));
    else if (PyCFunction_Check(fn))
        key = PyLong_FromVoidPtr((void *)(uintptr_t)PyCFunction_GET_FUNCTION(fn));
    else
        key = Py_NewRef((PyObject *)Py_TYPE(fn));
    Py_XDECREF(inner);
    return key;
}

/* An exception may be set: the G's. */
static void note_blocker(PyObject *fn) {
    if (load_relaxed(&nblockers) >= MAX_BLOCKERS) return;
    PyObject *type, *value, *tb;
    PyErr_Fetch(&type, &value, &tb);
    PyObject *key = entry(fn);
    if (!key || PySet_Add(blockers, key) < 0) PyErr_Clear(); /* then not */
    Py_XDECREF(key);
    PyErr_Restore(type, value, tb);
    store_relaxed(&nblockers, (uint32_t)PySet_GET_SIZE(blockers));
}

static bool is_blocker(PyObject *fn) {
    PyObject *key = entry(fn);
    int r = key ? PySet_Contains(blockers, key) : -1;
    if (r < 0) PyErr_Clear();
    Py_XDECREF(key);
    return r > 0;
}

/* ---------------------------------------------------------------- go */

/* For people: the line that calls go(). The code object and an offset cost a reference; the
 * line is worked out when it is asked for. */
static void note_maker(PyG *self) {
#if PY_VERSION_HEX >= 0x030C0000
    PyThreadState *ts = PyThreadState_Get();
#if PY_VERSION_HEX >= 0x030D0000
    struct _PyInterpreterFrame *frame = ts->current_frame;
#else
    struct _PyInterpreterFrame *frame = ts->cframe->current_frame;
#endif
    if (!frame) return;
    self->made_in = PyUnstable_InterpreterFrame_GetCode(frame);
    self->made_at = PyUnstable_InterpreterFrame_GetLasti(frame);
#else
    (void)self;
#endif
}

/* ---- the latency class: a G's children are of its own class, unless it says otherwise. */
static _Atomic bool classes; /* there was ever a G of the latency class */
static _Thread_local bool thread_latency;

static bool *go_class(void) {
    g *gp = current_g();
    return gp ? &host_g(gp)->go_latency : &thread_latency;
}

static PyObject *door_set_latency(PyObject *Py_UNUSED(module), PyObject *on) {
    int is = PyObject_IsTrue(on);
    if (is < 0) return NULL;
    bool *class = go_class(), before = *class;
    if (is) store_relaxed(&classes, true);
    *class = is;
    return PyBool_FromLong(before);
}

/* The G's contextvars: a copy of the caller's. Where that holds no variable, none is made:
 * a worker greenlet begins with an empty context anyway, and call() leaves it empty. */
static int inherit_context(PyG *self) {
    PyObject *mine = PyThreadState_Get()->context;
    if (!mine || PyObject_Size(mine) == 0) return 0;
    self->context = PyContext_CopyCurrent();
    return self->context ? 0 : -1;
}

static PyG *new_g(PyObject *fn, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyG *self = PyObject_GC_New(PyG, G_Type);
    if (!self) return NULL;
    memset((char *)self + sizeof(PyObject), 0, sizeof *self - sizeof(PyObject));
    self->gp = g_alloc();
    if (!self->gp) {
        Py_DECREF(self);
        PyErr_NoMemory();
        return NULL;
    }
    self->gp->host = self;
    self->fn = Py_NewRef(fn);
    if (nargs) {
        self->args = PyTuple_New(nargs);
        if (!self->args) goto fail;
        for (Py_ssize_t i = 0; i < nargs; i++) PyTuple_SET_ITEM(self->args, i, Py_NewRef(args[i]));
    }
    if (kwnames && PyTuple_GET_SIZE(kwnames)) {
        self->kwargs = PyDict_New();
        if (!self->kwargs) goto fail;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++)
            if (PyDict_SetItem(self->kwargs, PyTuple_GET_ITEM(kwnames, i), args[nargs + i]) < 0) goto fail;
    }
    note_maker(self);
    if (inherit_context(self) < 0) goto fail;
    /* Not tracked while it lives: the runtime refers to it, it can't be garbage. finish()
     * tracks it if its outcome could be part of a cycle. */
    return self;
fail:
    Py_DECREF(self);
    return NULL;
}

static PyObject *draining_error(void) {
    PyErr_SetString(PyExc_RuntimeError,
                    "go() while the runtime ends: main has returned, no new G's are started");
    return NULL;
}

static PyObject *start(struct PyGroup *group, bool begins, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames) {
    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "go() needs a function: go(fn, *args, **kwargs)");
        return NULL;
    }
    if (!PyCallable_Check(args[0])) {
        PyErr_Format(PyExc_TypeError,
                     "go(%R): not callable; pass the function and its arguments apart: go(fn, *args)",
                     args[0]);
        return NULL;
    }
    if (!load_relaxed(&S.running)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "go() outside a runtime: start one with gmpy_rt.run(main), and call go() in main");
        return NULL;
    }
    if (load_relaxed(&S.draining)) return draining_error();
    PyG *self = new_g(args[0], args + 1, nargs - 1, kwnames);
    if (!self) return NULL;
    self->begins = begins;
    if (group && group_enter(group, self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    m *mp = sched_self;
    if (unlikely(load_relaxed(&nblockers))) self->gp->solo = is_blocker(self->fn);
    if (unlikely(load_relaxed(&classes))) self->gp->latency = self->go_latency = *go_class();
    Py_INCREF(self);                                         /* the runtime's reference, until it has ended */
    uint32_t name = tracing() ? trace_name_of(self->fn) : 0; /* once it runs, fn isn't ours */
    if (mp) sched_enter(mp);
    bool gone = sched_go(self->gp);
    if (mp) sched_leave(mp);
    if (unlikely(!gone)) {
        if (group) group_child_ended(self);
        Py_DECREF(self);
        Py_DECREF(self);
        return draining_error();
    }
    if (unlikely(name)) trace_event(TRACE_NAME, self->gp->id, name);
    return (PyObject *)self;
}

PyObject *go_in_group(struct PyGroup *group, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    return start(group, false, args, nargs, kwnames);
}

static PyObject *door_go(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames) {
    return start(NULL, false, args, nargs, kwnames);
}

/* For functions of ours that keep books on how they end, and so must begin. They call
 * checkpoint() before they call anything of the user's. */
static PyObject *door_go_anyway(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    return start(NULL, true, args, nargs, kwnames);
}

static PyObject *door_checkpoint(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    g *gp = current_g();
    if (gp && load_seq(&gp->cancel) && raise_interrupt(host_g(gp)) < 0) return NULL;
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- running to the end */

static out_of_line void leave_context(PyG *self, bool raised) {
    PyObject *type = NULL, *value = NULL, *tb = NULL;
    if (raised) PyErr_Fetch(&type, &value, &tb);
    if (PyContext_Exit(self->context) < 0) /* fn left it entered twice, say */
        PyErr_WriteUnraisable(self->context);
    if (raised) PyErr_Restore(type, value, tb);
}

static PyObject *call(PyG *self) {
    /* mp->cur was set, then the look at cancel; interrupt_g: the other way round. */
    atomic_thread_fence(memory_order_seq_cst);
    if (unlikely(load_seq(&self->gp->cancel)) && !self->begins) { /* cancelled before it began */
        raise_interrupt(self);
        return NULL;
    }
    if (self->context && PyContext_Enter(self->context) < 0) return NULL;
    PyObject *r = self->args || self->kwargs
                      ? (self->args ? PyObject_Call(self->fn, self->args, self->kwargs)
                                    : PyObject_VectorcallDict(self->fn, NULL, 0, self->kwargs))
                      : PyObject_CallNoArgs(self->fn);
    if (likely(!self->context)) {
        PyThreadState *ts = PyThreadState_Get();
        if (unlikely(ts->context)) { /* it has set variables of its own: not for the next G */
            ts->context_ver++;
            Py_CLEAR(ts->context);
        }
    } else
        leave_context(self, !r);
    return r;
}

PyObject *take_exception(void) {
    PyObject *type, *value, *tb;
    PyErr_Fetch(&type, &value, &tb);
    PyErr_NormalizeException(&type, &value, &tb);
    if (tb) PyException_SetTraceback(value, tb);
    Py_XDECREF(type);
    Py_XDECREF(tb);
    return value;
}

static void report(PyG *self) {
    self->seen = true;
    if (!self->exc || PyErr_GivenExceptionMatches(self->exc, Cancelled)) return;
    PyObject *type, *value, *tb, *r = NULL;
    g *gp = current_g(); /* in whose last reference's end this is: its interrupts aren't the hook's */
    PyErr_Fetch(&type, &value, &tb);
    if (gp) mask_interrupts(host_g(gp), 1);
    if (excepthook && !(r = PyObject_CallOneArg(excepthook, (PyObject *)self)))
        PyErr_WriteUnraisable(excepthook);
    if (gp) mask_interrupts(host_g(gp), -1);
    if (!r) {
        PyErr_SetObject((PyObject *)Py_TYPE(self->exc), self->exc);
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(r);
    PyErr_Restore(type, value, tb);
}

/* Publishes the outcome and wakes who joins. What it was called with goes before: a finalizer
 * of that may wait, and can be cancelled as long as the G isn't done. */
static void finish(PyG *self, PyObject *result) {
    waiter *wake = NULL, *w;
    PyObject *exc = result ? NULL : take_exception(), *drop = NULL;
    if (unlikely(self->scopes)) scopes_end(self);
    mutex_lock(&self->lock);
    PyObject *fn = self->fn;
    self->fn = NULL;
    mutex_unlock(&self->lock);
    Py_XDECREF(fn);
    Py_CLEAR(self->args);
    Py_CLEAR(self->kwargs);
    Py_CLEAR(self->context);
    if (self->locals) PyDict_Clear(self->locals); /* its entries may refer to it: see local.py */
    Py_CLEAR(self->locals);
    if (unlikely(!result || self->interrupt || PyObject_IS_GC(result))) PyObject_GC_Track(self);
    mutex_lock(&self->lock);
    self->result = result;
    self->exc = exc;
    if (self->interrupt_soft) { /* another one is run()'s to raise: see _untaken */
        drop = self->interrupt;
        self->interrupt = NULL;
    }
    store_release(&self->done, true);
    while ((w = waitq_claim(&self->joiners, WAKE_OK))) {
        w->next = wake;
        wake = w;
    }
    mutex_unlock(&self->lock);
    while ((w = wake)) {
        wake = w->next;
        w->next = NULL;
        parker_unpark(w->parker);
    }
    if (self->group) group_child_ended(self);
    Py_XDECREF(drop);
}

/* A child was forked inside a G and now falls out of it. M's, P's and the other G's are the
 * parent's; there is nothing here that could go on. */
static void end_forked_child(PyObject *result) {
    if (!result && !PyErr_ExceptionMatches(PyExc_SystemExit)) PyErr_Print();
    static const char text[] =
        "gmpy_rt: a child forked in a G returned from it, but the runtime is its parent's; "
        "end the child with os._exit(), or fork outside run()\n";
    if (write(2, text, sizeof text - 1) < 0) _exit(71);
    _exit(70);
}

static out_of_line void ended(PyG *self, PyObject *result) {
    m *mp = sched_self;
    g *gp = self->gp;
    no_raise(load_relaxed(&mp->host), gp);
    if (unlikely(self->locks)) lock_m(mp, self, -self->locks); /* it ended without unlock_os_thread() */
    /* Not of main: it starts through the same function in every run, whatever it does there. */
    if (unlikely(gp->blocked || (load_relaxed(&mp->hold) == HOLD_TAKEN && sched_blocked_long(mp))) &&
        !self->notify)
        note_blocker(self->fn);
    finish(self, result);
    no_raise(load_relaxed(&mp->host), gp); /* it may have been preempted in a finalizer */
    bool notify = self->notify;
    sched_enter(mp);
    sched_end(mp, gp);
    if (unlikely(notify)) S.ops.idle();
    store_relaxed(&mp->cur, NULL);
    mutex_lock(&gp->host_lock); /* all_g takes its reference under it */
    gp->host = NULL;
    mutex_unlock(&gp->host_lock);
    /* Finalizers may run Python from here: outside the core, and outside any G. */
    sched_leave(mp);
    Py_DECREF(self);
}

void pyg_run(m *mp, g *gp) {
    PyG *self = host_g(gp);
    sched_leave(mp);
    PyObject *result = call(self);
    if (unlikely(sched_self != mp)) end_forked_child(result);
    ended(self, result);
}

/* ---------------------------------------------------------------- join, result */

static PyG *self_or_error(PyG *self, const char *what) {
    g *gp = current_g();
    if (gp && gp == self->gp) {
        PyErr_Format(PyExc_RuntimeError, "%R: %s of the G itself would wait for ever; let another G do it",
                     self, what);
        return NULL;
    }
    return self;
}

/* 1: ended; 0: timeout; -1: exception. */
static int join(PyG *self, PyObject *timeout, const char *what) {
    if (load_acquire(&self->done)) return 1;
    int64_t deadline = deadline_from(timeout);
    if (deadline == -1) return -1;
    if (!self_or_error(self, what)) return -1;
    if (deadline == -2) return 0;
    seat s;
    if (seat_take(&s) < 0) return -1;
    mutex_lock(&self->lock);
    if (load_relaxed(&self->done)) {
        mutex_unlock(&self->lock);
        return 1;
    }
    waiter_init(s.waiter, s.parker, wait_begin(s.parker));
    waitq_push(&self->joiners, s.waiter);
    mutex_unlock(&self->lock);
    waits_for(&s, (PyObject *)self);
    int why = park(&s, deadline, WAIT_JOIN);
    waits_for(&s, NULL);
    if (why == WAKE_OK) return 1;
    mutex_lock(&self->lock);
    waitq_remove(&self->joiners, s.waiter);
    mutex_unlock(&self->lock);
    return why == PARK_ERROR ? -1 : 0;
}

static int one_timeout(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **timeout,
                       const char *name) {
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    *timeout = NULL;
    if (nargs + nkw > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes one argument: timeout", name);
        return -1;
    }
    if (nkw && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "timeout") != 0) {
        PyErr_Format(PyExc_TypeError, "%s() got an unknown argument %R; it takes timeout", name,
                     PyTuple_GET_ITEM(kwnames, 0));
        return -1;
    }
    if (nargs + nkw) *timeout = args[0];
    return 0;
}

static PyObject *g_join(PyG *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *timeout;
    if (one_timeout(args, nargs, kwnames, &timeout, "join") < 0) return NULL;
    int r = join(self, timeout, "join()");
    return r < 0 ? NULL : PyBool_FromLong(r);
}

static PyObject *timed_out(PyG *self, PyObject *timeout) {
    PyErr_Format(PyExc_TimeoutError, "%R has not ended within %S s", self, timeout);
    return NULL;
}

static PyObject *g_result(PyG *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *timeout;
    if (one_timeout(args, nargs, kwnames, &timeout, "result") < 0) return NULL;
    int r = join(self, timeout, "result()");
    if (r < 0) return NULL;
    if (r == 0) return timed_out(self, timeout);
    self->seen = true;
    if (!self->exc) return Py_NewRef(self->result);
    PyErr_SetObject((PyObject *)Py_TYPE(self->exc), self->exc);
    return NULL;
}

static PyObject *g_exception(PyG *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *timeout;
    if (one_timeout(args, nargs, kwnames, &timeout, "exception") < 0) return NULL;
    int r = join(self, timeout, "exception()");
    if (r < 0) return NULL;
    if (r == 0) return timed_out(self, timeout);
    self->seen = true;
    return Py_NewRef(self->exc ? self->exc : Py_None);
}

static PyObject *g_done(PyG *self, PyObject *Py_UNUSED(unused)) {
    return PyBool_FromLong(load_acquire(&self->done));
}

static PyObject *g_cancel(PyG *self, PyObject *Py_UNUSED(unused)) {
    if (load_acquire(&self->done)) Py_RETURN_FALSE;
    interrupt_g(self, Cancelled);
    Py_RETURN_TRUE;
}

/* Whether one was still to be raised, which this takes the place of; None: the G has ended. */
static PyObject *g_interrupt(PyG *self, PyObject *exc) {
    int again = interrupt_g(self, exc);
    if (again < 0) Py_RETURN_NONE;
    return PyBool_FromLong(again);
}

static PyObject *g_notify(PyG *self, PyObject *Py_UNUSED(unused)) {
    self->notify = true;
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- the collector, death */

static int g_traverse(PyG *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->fn);
    Py_VISIT(self->args);
    Py_VISIT(self->kwargs);
    Py_VISIT(self->context);
    Py_VISIT(self->result);
    Py_VISIT(self->exc);
    Py_VISIT(self->interrupt);
    Py_VISIT(self->locals);
    Py_VISIT(self->greenlet);
    return 0;
}

static int g_clear(PyG *self) {
    Py_CLEAR(self->fn);
    Py_CLEAR(self->args);
    Py_CLEAR(self->kwargs);
    Py_CLEAR(self->context);
    Py_CLEAR(self->result);
    Py_CLEAR(self->exc);
    Py_CLEAR(self->interrupt);
    Py_CLEAR(self->locals);
    return 0;
}

static void g_finalize(PyG *self) {
    if (self->exc && !self->seen) report(self);
}

static void g_dealloc(PyG *self) {
    if (self->exc && !self->seen && PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) return;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, g_dealloc); /* its result may be a G, and that one's result... */
    if (self->weakrefs) PyObject_ClearWeakRefs((PyObject *)self);
    g_clear(self);
    Py_CLEAR(self->name);
    Py_CLEAR(self->made_in);
    if (self->gp) g_free(self->gp);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

/* ---------------------------------------------------------------- module */

static PyObject *door_current(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    g *gp = current_g();
    if (gp) return Py_NewRef(host_g(gp));
    PyErr_SetString(PyExc_RuntimeError,
                    "current() outside a G: call it in a function started by run() or go()");
    return NULL;
}

static PyObject *door_current_or_none(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    g *gp = current_g();
    return Py_NewRef(gp ? (PyObject *)host_g(gp) : Py_None);
}

static PyObject *door_current_m(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    m *mp = sched_self;
    if (!mp) Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(mp->id);
}

/* The dict of the calling G's own state, made on demand; None for a plain thread. */
static PyObject *door_g_locals(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    g *gp = current_g();
    if (!gp) Py_RETURN_NONE;
    PyG *self = host_g(gp);
    if (!self->locals && !(self->locals = PyDict_New())) return NULL;
    return Py_NewRef(self->locals);
}

static PyObject *door_set_excepthook(PyObject *Py_UNUSED(module), PyObject *fn) {
    Py_XSETREF(excepthook, fn == Py_None ? NULL : Py_NewRef(fn));
    Py_RETURN_NONE;
}

static PyObject *class_getitem(PyObject *cls, PyObject *item) { return Py_GenericAlias(cls, item); }

static PyMethodDef g_methods[] = {
    {"__class_getitem__", class_getitem, METH_O | METH_CLASS, NULL}, /* G[int] in annotations */
    {"join", (PyCFunction)(void (*)(void))g_join, METH_FASTCALL | METH_KEYWORDS,
     "join(timeout=None)\n--\n\nWait until this G has ended.\n\n"
     "timeout: seconds; None waits for ever, 0 only looks. Returns whether it has ended.\n"
     "Raises RuntimeError in the G itself, Cancelled if the waiting G is cancelled."},
    {"result", (PyCFunction)(void (*)(void))g_result, METH_FASTCALL | METH_KEYWORDS,
     "result(timeout=None)\n--\n\nWait for the end and return what the function returned.\n\n"
     "Raises what the function raised; TimeoutError after timeout seconds."},
    {"exception", (PyCFunction)(void (*)(void))g_exception, METH_FASTCALL | METH_KEYWORDS,
     "exception(timeout=None)\n--\n\nWait for the end and return the exception the function raised, or "
     "None.\n\n"
     "Raises TimeoutError after timeout seconds."},
    {"done", (PyCFunction)g_done, METH_NOARGS, "done()\n--\n\nWhether this G has ended."},
    {"cancel", (PyCFunction)g_cancel, METH_NOARGS,
     "cancel()\n--\n\nRaise Cancelled in this G: at once where it is parked, else at its next park;\n"
     "a CPU-bound one gets it where it is preempted. Returns False if it had ended."},
    {"_notify", (PyCFunction)g_notify, METH_NOARGS, NULL},
    {"_interrupt", (PyCFunction)g_interrupt, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef g_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PyG, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot g_slots_def[] = {
    {Py_tp_dealloc, g_dealloc},
    {Py_tp_finalize, g_finalize},
    {Py_tp_traverse, g_traverse},
    {Py_tp_clear, g_clear},
    {Py_tp_methods, g_methods},
    {Py_tp_getset, g_getset},
    {Py_tp_members, g_members},
    {Py_tp_repr, g_repr},
    {Py_tp_doc, "A green thread, as go() returns it."},
    {0, NULL},
};

static PyType_Spec g_spec = {
    .name = "gmpy_rt.G",
    .basicsize = sizeof(PyG),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = g_slots_def,
};

static PyMethodDef methods[] = {
    {"go", (PyCFunction)(void (*)(void))door_go, METH_FASTCALL | METH_KEYWORDS,
     "go(fn, /, *args, **kwargs)\n--\n\nStart fn(*args, **kwargs) as a G and return it at once.\n\n"
     "It starts with a copy of the caller's contextvars. From a plain thread it works too, while a\n"
     "runtime runs. Raises RuntimeError outside a runtime."},
    {"go_anyway", (PyCFunction)(void (*)(void))door_go_anyway, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"checkpoint", door_checkpoint, METH_NOARGS, NULL},
    {"current", door_current, METH_NOARGS,
     "current()\n--\n\nThe G that runs. Raises RuntimeError outside a G."},
    {"current_or_none", door_current_or_none, METH_NOARGS, NULL},
    {"current_m", door_current_m, METH_NOARGS, NULL},
    {"g_locals", door_g_locals, METH_NOARGS, NULL},
    {"set_excepthook", door_set_excepthook, METH_O, NULL},
    {"set_latency", door_set_latency, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int pyg_init(PyObject *module) {
    G_Type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &g_spec, NULL);
    blockers = PySet_New(NULL);
    PyObject *functools = PyImport_ImportModule("functools");
    if (functools) partial = (PyTypeObject *)PyObject_GetAttrString(functools, "partial");
    Py_XDECREF(functools);
    if (!blockers || !partial || !G_Type || PyModule_AddObjectRef(module, "G", (PyObject *)G_Type) < 0)
        return -1;
    return PyModule_AddFunctions(module, methods);
}
