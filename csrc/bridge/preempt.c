/* preempt.c: making a CPU-bound G yield at the interpreter's next safe point.
 *
 * remote-debug (3.14+): PEP 768's protocol inside one's own process. sysmon writes the path
 *   of a script into the thread's debugger support, marks it pending and sets the stop bit
 *   of the thread's eval breaker; at the next backward jump or function entry exactly that
 *   thread runs the script, with no lock held, and the script yields (see script.c). No
 *   stop-the-world.
 * monitoring (3.12, 3.13, or when remote debugging is off): sys.monitoring events, switched
 *   on when needed; each switch-on stops the world for 1.5 to 4 ms.
 * none (3.11): a hog keeps its M until it parks. */
#include "bridge.h"

static PyObject *locking_files; /* frozenset of co_filename's */

static _Atomic int raise_wanted; /* M's with a raise_in */

enum { MODE_NONE, MODE_REMOTE, MODE_MONITORING };
static int mode = MODE_NONE;
/* Python, for monitoring only: switches the events on. */
static PyObject *callback;

#if PY_VERSION_HEX >= 0x030E0000
static char script_path[64];
static const uintptr_t PLEASE_STOP = 1U << 5;
#endif

enum host_state py_thread_state(m *mp) {
#ifdef Py_GIL_DISABLED
    mhost *h = load_acquire(&mp->host);
    if (!h) return HOST_UNKNOWN;
    mutex_lock(&h->lock);
    int state = h->tstate ? __atomic_load_n(&h->tstate->state, __ATOMIC_RELAXED) : -1;
    mutex_unlock(&h->lock);
    if (unlikely(load_relaxed(&h->resuming))) {
        if (state == 0 && nanotime() < load_relaxed(&h->resuming)) return HOST_UNKNOWN;
        if (state != 2) store_relaxed(&h->resuming, 0);
    }
    /* 0: detached; 1: attached; 2: suspended by a stop-the-world, which isn't blocking. */
    return state == 0 ? HOST_DETACHED : state == 1 ? HOST_RUNNING : HOST_UNKNOWN;
#else
    (void)mp; /* detached may as well mean: waits for the GIL */
    return HOST_UNKNOWN;
#endif
}

#if PY_VERSION_HEX >= 0x030E0000
static void ask_remote(PyThreadState *ts) {
    memcpy(ts->remote_debugger_support.debugger_script_path, script_path, sizeof script_path);
    __atomic_store_n(&ts->remote_debugger_support.debugger_pending_call, 1, __ATOMIC_RELEASE);
    __atomic_fetch_or(&ts->eval_breaker, PLEASE_STOP, __ATOMIC_RELEASE);
}
#endif

/* From sysmon (no thread state) or from a Python thread. */
bool py_preempt(m *mp) {
    mhost *h = load_acquire(&mp->host);
    if (!h || mode == MODE_NONE) return false;
    if (load_relaxed(&h->no_preempt)) { /* a G that is mostly in such code may never be met outside */
        store_relaxed(&h->preempt_late, true);
        return false;
    }
    bool asked = false;
#if PY_VERSION_HEX >= 0x030E0000
    if (mode == MODE_REMOTE) {
        mutex_lock(&h->lock);
        if (h->tstate) {
            ask_remote(h->tstate);
            asked = true;
        }
        mutex_unlock(&h->lock);
    }
#endif
    g *gp = load_relaxed(&mp->cur);
    if (mode == MODE_MONITORING && callback && gp) {
        store_relaxed(&h->monitor_for, gp);
        PyGILState_STATE state = PyGILState_Ensure();
        PyObject *r = PyObject_CallNoArgs(callback);
        if (!r) PyErr_WriteUnraisable(callback);
        asked = r != NULL;
        Py_XDECREF(r);
        PyGILState_Release(state);
    }
    return asked;
}

/* Is this thread in code of the standard library that holds locks of threads (the import
 * system, queue, logging, executors)? Preempted there, a G would leave its lock held, and the
 * next G of this M that wants it would block the M for ever, the holder with it; an RLock
 * would even let it in. */
static bool in_locking_code(void) {
    if (!locking_files) return false;
    bool found = false;
    PyFrameObject *f = PyThreadState_GetFrame(PyThreadState_Get());
    while (f && !found) {
        PyCodeObject *code = PyFrame_GetCode(f);
        found = PySet_Contains(locking_files, code->co_filename) == 1;
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(f);
        Py_DECREF(f);
        f = back;
    }
    Py_XDECREF(f);
    return found;
}

/* Not now: no_preempt went up after it was asked (then once it is down again), or the code
 * is such that sysmon had better ask again later. */
static bool put_off(void) {
    mhost *h = load_relaxed(&sched_self->host);
    if (!load_relaxed(&h->no_preempt)) return in_locking_code();
    store_relaxed(&h->preempt_late, true);
    return true;
}

/* ---------------------------------------------------------------- interrupting a hog
 *
 * What interrupts a G that doesn't park is raised between two of its bytecodes; but not
 * between any two. After a call, what the call returned would be lost (a value received, a
 * lock just taken: the `with` hasn't begun yet). So it is raised by a pending call, which
 * runs at the interpreter's next check, sees where that is, and waits for a later one unless
 * it is a loop's jump back or the beginning of a function; never in special methods
 * (__exit__ had better do its work), nor in our own locks and queues, whose modules have a
 * global __gmpy_atomic__. An exception set with PyThreadState_SetAsyncExc can't choose.
 *
 * Pending calls run on whichever thread meets a check first. A GIL build signals them to the
 * GIL's holder only, which is this thread. A free-threaded one signals all threads, and hogs
 * on other M's, whose next check is a few nanoseconds away, took the call every time, for
 * seconds. So there the world is stopped while it is queued, and the others forget the signal.
 *
 * With remote-debug the M asks itself once more whenever it queues the call: its next check
 * runs the call and then, unless that has raised, the script, which queues it again. With
 * monitoring, who meets the call in vain queues it again. After many tries it is given up; the
 * interrupt stays with the G, and sysmon asks again after the next slice. */
#if PY_VERSION_HEX >= 0x030C0000
#if PY_VERSION_HEX >= 0x030D0000
#include <opcode_ids.h>
#else
#include <opcode.h>
#endif

extern int _PyEval_AddPendingCall(PyInterpreterState *interp, int (*fn)(void *), void *arg, int flags);
#ifdef Py_GIL_DISABLED
extern void _PyEval_StopTheWorld(PyInterpreterState *interp);
extern void _PyEval_StartTheWorld(PyInterpreterState *interp);
static const uintptr_t CALLS_TO_DO = 1U << 2;
#endif

/* A call that queues itself again runs again in the same check: so many times, as ceval_gil.c
 * loops. */
enum { SAME_CHECK = PY_VERSION_HEX >= 0x030D0000 ? 100 : 32 };
enum { REMOTE_TRIES = 100, OWN_TRIES = 2000 * SAME_CHECK, QUEUE_TRIES = 2 * OWN_TRIES };
static _Atomic int queue_tries;   /* monitoring: queueings left, whoever meets the call */
static _Atomic bool raise_queued; /* there, one is enough for all M's */

static bool special(PyObject *name) {
    return PyUnicode_GET_LENGTH(name) > 4 && PyUnicode_READ_CHAR(name, 0) == '_' &&
           PyUnicode_READ_CHAR(name, 1) == '_';
}

/* Is f our script, or an import that it does? It runs in a namespace without __name__. */
static bool in_script(PyFrameObject *f) {
    bool found = false;
    Py_INCREF(f);
    for (int depth = 0; f && depth < 8 && !found; depth++) {
        PyObject *globals = PyFrame_GetGlobals(f);
        found = !PyDict_GetItemString(globals, "__name__");
        Py_DECREF(globals);
        PyFrameObject *back = PyFrame_GetBack(f);
        Py_DECREF(f);
        f = back;
    }
    Py_XDECREF(f);
    return found;
}

static const unsigned char *varint(const unsigned char *p, int *value) {
    *value = *p & 63;
    while (*p++ & 64) *value = *value << 6 | (*p & 63);
    return p;
}

/* Where an exception at code unit `at` would be handled; -1: in no handler. */
static int handler_of(PyCodeObject *code, int at) {
    const unsigned char *p = (unsigned char *)PyBytes_AS_STRING(code->co_exceptiontable);
    const unsigned char *end = p + PyBytes_GET_SIZE(code->co_exceptiontable);
    while (p < end) {
        int start, size, target, depth;
        p = varint(varint(varint(varint(p, &start), &size), &target), &depth);
        if (at >= start && at < start + size) return target;
    }
    return -1;
}

/* Where the jump back at code unit `at` goes to, its cache entry behind it from 3.13 on. */
static int jump_target(const unsigned char *code, int at) {
    unsigned by = code[2 * at + 1], shift = 8;
    for (int i = at - 1; i >= 0 && code[2 * i] == EXTENDED_ARG; i--, shift += 8)
        by |= (unsigned)code[2 * i + 1] << shift;
    return at + (PY_VERSION_HEX >= 0x030D0000 ? 2 : 1) - (int)by;
}

/* May it be raised at the instruction at which f was stopped? The compiler leaves the jump back
 * of some loops out of the handlers around the loop (of `while ...: if x: y()`, where x is
 * false): what is raised there passes by except, finally and with. There it has to be after a
 * call, if there is nothing else (DESPERATE: it hasn't gone for long); but not after the one
 * that begins a with. A loop without calls that ends in such a jump is never cancelled; but
 * Ctrl-C (AT_LAST) ends it there after all, as it does without us. */
enum hurry { PATIENT, DESPERATE, AT_LAST };
static bool may_raise_at(PyCodeObject *code, int lasti, enum hurry hurry) {
    PyObject *bytes = PyCode_GetCode(code);
    if (!bytes) {
        PyErr_Clear();
        return false;
    }
    const unsigned char *units = (unsigned char *)PyBytes_AS_STRING(bytes);
    int n = (int)(PyBytes_GET_SIZE(bytes) / 2), at = lasti / 2, next = at + 1;
    bool may = false;
    if (lasti >= 0 && at < n) switch (units[2 * at]) {
        case RESUME: may = true; break;
        case JUMP_BACKWARD:
            may = hurry == AT_LAST || handler_of(code, at) == handler_of(code, jump_target(units, at));
            break;
        case CALL:
            while (next < n && units[2 * next] == CACHE) next++;
            may = hurry && handler_of(code, at) == handler_of(code, next);
            break;
        }
    Py_DECREF(bytes);
    return may;
}

static bool may_raise_in(PyFrameObject *f, enum hurry hurry) {
    PyCodeObject *code = PyFrame_GetCode(f);
    PyObject *globals = PyFrame_GetGlobals(f);
    bool may = !special(code->co_name) && !PyDict_GetItemString(globals, "__gmpy_atomic__") &&
               may_raise_at(code, PyFrame_GetLasti(f), hurry) && !in_script(f);
    Py_XDECREF(globals);
    Py_DECREF(code);
    return may;
}

/* The same for where the interpreter is now; what was refused there isn't looked at again. */
static bool may_raise_now(mhost *h, enum hurry hurry) {
    PyFrameObject *f = PyEval_GetFrame();
    if (load_relaxed(&h->no_preempt) || !f) return false;
    int lasti = PyFrame_GetLasti(f);
    if (h->refused_in == f && h->refused_at == lasti && h->refused_hurry == (int)hurry) return false;
    if (!in_locking_code() && may_raise_in(f, hurry)) return true;
    h->refused_in = f;
    h->refused_at = lasti;
    h->refused_hurry = (int)hurry;
    return false;
}

static int raise_here(void *arg);

/* For this thread alone. */
static int add_pending_call(void) {
    PyInterpreterState *interp = PyInterpreterState_Get();
#ifdef Py_GIL_DISABLED
    PyThreadState *self = PyThreadState_Get();
    _PyEval_StopTheWorld(interp);
    int full = _PyEval_AddPendingCall(interp, raise_here, NULL, 0);
    for (PyThreadState *ts = PyInterpreterState_ThreadHead(interp); ts; ts = PyThreadState_Next(ts))
        if (ts != self) __atomic_fetch_and(&ts->eval_breaker, ~CALLS_TO_DO, __ATOMIC_RELAXED);
    _PyEval_StartTheWorld(interp);
    return full;
#else
    return _PyEval_AddPendingCall(interp, raise_here, NULL, 0);
#endif
}

static void queue_raise(void) {
    if (mode == MODE_REMOTE) {
        add_pending_call();
        return;
    }
    if (atomic_fetch_sub(&queue_tries, 1) <= 0) return;
    if (atomic_exchange(&raise_queued, true)) return;
    if (add_pending_call()) store_seq(&raise_queued, false);
}

static int raise_here(void *Py_UNUSED(arg)) {
    bool remote = mode == MODE_REMOTE;
    store_seq(&raise_queued, false);
    g *gp = current_g();
    mhost *h = gp ? load_relaxed(&sched_self->host) : NULL;
    if (!h || h->raise_in != gp) { /* another M's */
        if (!remote && atomic_load(&raise_wanted) > 0) queue_raise();
        return 0;
    }
    /* Its own only: others meet the call, too, and must not bring it to where nothing handles it. */
    int tries = h->raise_tries, all = remote ? REMOTE_TRIES : OWN_TRIES;
    if (!remote && tries > 0) h->raise_tries--;
    enum hurry hurry = tries > all / 2 ? PATIENT : DESPERATE;
    PyG *self = host_g(gp); /* its own fields: another may only add to them */
    if (tries < all / 4 && self->interrupt && !self->interrupt_soft) hurry = AT_LAST;
    if (load_relaxed(&gp->cancel) && !may_raise_now(h, hurry)) {
        if (!remote) queue_raise();
        return 0;
    }
    no_raise(h, gp);
    return load_relaxed(&gp->cancel) ? raise_interrupt(host_g(gp)) : 0;
}

static void ask_myself(mhost *h, bool ask) {
#if PY_VERSION_HEX >= 0x030E0000
    if (mode != MODE_REMOTE) return;
    if (ask)
        ask_remote(h->tstate);
    else
        __atomic_store_n(&h->tstate->remote_debugger_support.debugger_pending_call, 0, __ATOMIC_RELEASE);
    h->asked_myself = ask;
#else
    (void)h, (void)ask;
#endif
}

static void raise_soon(g *gp) {
    mhost *h = load_relaxed(&sched_self->host);
    if (!load_relaxed(&gp->cancel)) return;
    if (h->raise_in != gp) {
        if (!h->raise_in) atomic_fetch_add(&raise_wanted, 1);
        h->raise_in = gp;
        h->raise_tries = mode == MODE_REMOTE ? REMOTE_TRIES : OWN_TRIES;
    }
    store_seq(&queue_tries, QUEUE_TRIES);
    queue_raise();
    ask_myself(h, true);
}
#else
static void ask_myself(mhost *Py_UNUSED(h), bool Py_UNUSED(ask)) {}
static void raise_soon(g *Py_UNUSED(gp)) {}
#endif

void no_raise_slow(mhost *h) {
    h->raise_in = NULL;
    atomic_fetch_sub(&raise_wanted, 1);
    if (h->asked_myself) ask_myself(h, false);
}

int preempt_yield(void) {
    g *gp = current_g();
    if (!gp || put_off()) return 0;
    mhost *h = load_relaxed(&sched_self->host);
    h->asked_myself = false;
    /* An interrupt is raised in this slice; where that took too long, the others come first. */
    if (load_relaxed(&gp->cancel) && (h->raise_in != gp || h->raise_tries-- > 0)) {
        raise_soon(gp);
        return 0;
    }
    if (yield_now(true) < 0) return -1;
    raise_soon(gp);
    return 0;
}

/* For a script from a file: a slot, for the same reason as the finalizer in script.c. */
static PyObject *yield_point_positive(PyObject *Py_UNUSED(self)) {
    if (preempt_yield() < 0) return NULL;
    Py_RETURN_NONE;
}

/* The monitoring callback's half, after monitor_asked. A slot, and the callback's last act,
 * for the same reason as the script's: raised inside the callback, an exception would pass
 * by the handlers of the function that jumps (3.12 and 3.13 look for them elsewhere). */
static PyObject *yield_point_negative(PyObject *Py_UNUSED(self)) {
    g *gp = current_g();
    if (!gp || put_off()) Py_RETURN_FALSE;
#if PY_VERSION_HEX >= 0x030C0000
    /* As in preempt_yield: a yield would begin its tries anew. */
    mhost *h = load_relaxed(&sched_self->host);
    if (load_relaxed(&gp->cancel) && h->raise_in == gp && h->raise_tries > 0) {
        raise_soon(gp);
        Py_RETURN_TRUE;
    }
    /* Else the thread's tracing count stays up for the G that runs next. */
    PyThreadState *ts = PyThreadState_Get();
    PyThreadState_LeaveTracing(ts);
    int r = yield_now(true);
    PyThreadState_EnterTracing(ts);
    if (r < 0) return NULL;
    raise_soon(gp);
#endif
    Py_RETURN_TRUE;
}

static PyType_Slot yield_point_slots[] = {
    {Py_nb_positive, yield_point_positive}, {Py_nb_negative, yield_point_negative}, {0, NULL}};
static PyType_Spec yield_point_spec = {
    .name = "gmpy_rt._door.YieldPoint",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = yield_point_slots,
};

/* Is there an M that still runs the g which was asked? */
static bool anybody_asked(void) {
    bool asked = false;
    if (!sched_look()) return false;
    for (uint32_t i = 0; i < load_seq(&S.nm) && i < MAX_M && !asked; i++) {
        m *mp = load_acquire(&S.allm[i]);
        mhost *h = mp ? load_acquire(&mp->host) : NULL;
        g *gp = h ? load_relaxed(&h->monitor_for) : NULL;
        asked = gp && load_relaxed(&mp->cur) == gp && g_status(gp) == G_RUNNING;
    }
    sched_look_end();
    return asked;
}

/* monitor_asked() -> True: sysmon asked this very G; False: nobody, the one that it asked has
 * parked or ended meanwhile; None: another M's G. */
static PyObject *door_monitor_asked(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    m *mp = sched_self;
    g *gp = mp ? load_relaxed(&mp->cur) : NULL;
    mhost *h = gp ? load_relaxed(&mp->host) : NULL;
    if (h && load_relaxed(&h->monitor_for) == gp) {
        store_relaxed(&h->monitor_for, NULL);
        Py_RETURN_TRUE;
    }
    if (anybody_asked()) Py_RETURN_NONE;
    Py_RETURN_FALSE;
}

static PyObject *door_preempt_mode(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *name;
    PyObject *on = Py_None;
    if (!PyArg_ParseTuple(args, "s|O", &name, &on)) return NULL;
    mode = strcmp(name, "remote-debug") == 0 ? MODE_REMOTE
           : strcmp(name, "monitoring") == 0 ? MODE_MONITORING
                                             : MODE_NONE;
    Py_XSETREF(callback, on == Py_None ? NULL : Py_NewRef(on));
#if PY_VERSION_HEX >= 0x030E0000
    if (mode == MODE_REMOTE && !script_path[0]) {
        if (script_install(script_path, sizeof script_path) < 0) return NULL;
    }
#endif
    Py_RETURN_NONE;
}

static PyObject *door_no_preempt(PyObject *Py_UNUSED(module), PyObject *arg) {
    m *mp = sched_self;
    long by = PyLong_AsLong(arg);
    if (by == -1 && PyErr_Occurred()) return NULL;
    if (mp) {
        mhost *h = load_relaxed(&mp->host);
        store_relaxed(&h->no_preempt, load_relaxed(&h->no_preempt) + (uint32_t)by);
        if (load_relaxed(&h->no_preempt) == 0 && load_relaxed(&h->preempt_late)) {
            store_relaxed(&h->preempt_late, false);
            py_preempt(mp);
        }
    }
    Py_RETURN_NONE;
}

static PyObject *door_no_preempt_in(PyObject *Py_UNUSED(module), PyObject *files) {
    Py_XSETREF(locking_files, PyFrozenSet_New(files));
    if (!locking_files) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"monitor_asked", door_monitor_asked, METH_NOARGS, NULL},
    {"preempt_mode", door_preempt_mode, METH_VARARGS, NULL},
    {"no_preempt_in", door_no_preempt_in, METH_O, NULL},
    {"no_preempt", door_no_preempt, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int preempt_init(PyObject *module) {
    PyObject *type = PyType_FromSpec(&yield_point_spec);
    PyObject *point = type ? PyObject_CallNoArgs(type) : NULL;
    Py_XDECREF(type);
    if (!point || PyModule_AddObjectRef(module, "yield_point", point) < 0) return -1;
    Py_DECREF(point);
    return PyModule_AddFunctions(module, methods);
}
