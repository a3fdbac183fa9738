/* pysync.c: Lock, RLock and WaitGroup. */
#include "bridge.h"

#include "../gsync.h"

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    glock l;
    _Atomic uint64_t owner;     /* id of the G that took it last; 0: a plain thread */
    _Atomic int64_t held_since; /* for the mutex profile; 0: it was off */
} PyLock;

/* 1: taken; 0: not within the time; -1: exception. */
static int lock_wait(PyLock *self, bool blocking, int64_t deadline) {
    if (!blocking) return 0;
    seat s;
    if (seat_take(&s) < 0) return -1;
    int64_t since = nanotime();
    int r = 1;
    waits_for(&s, (PyObject *)self);
    for (bool again = false;; again = true) {
        if (glock_spin(&self->l, again) || glock_wait(&self->l, s.parker, s.waiter, since, again)) break;
        int why = park(&s, deadline, WAIT_MUTEX);
        if (why != WAKE_OK) {
            glock_unwait(&self->l, s.waiter);
            r = why == PARK_ERROR ? -1 : 0;
            break;
        }
        if (s.waiter->ok) break;
    }
    waits_for(&s, NULL);
    return r;
}

static int lock_take(PyLock *self, bool blocking, int64_t deadline) {
    int r = glock_try(&self->l) ? 1 : lock_wait(self, blocking, deadline);
    if (r == 1) {
        g *gp = current_g();
        store_relaxed(&self->owner, gp ? gp->id : 0);
        store_relaxed(&self->held_since, prof_mutex_time());
    }
    return r;
}

/* The arguments of acquire(blocking=True, timeout=-1). -1 with an exception set. */
static int parse_acquire(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, bool *block,
                         int64_t *until) {
    int blocking = 1;
    PyObject *timeout = NULL;
    {
        Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
        PyObject *given = nargs > 0 ? args[0] : NULL;
        timeout = nargs > 1 ? args[1] : NULL;
        for (Py_ssize_t i = 0; i < nkw; i++) {
            PyObject *key = PyTuple_GET_ITEM(kwnames, i);
            if (!given && PyUnicode_CompareWithASCIIString(key, "blocking") == 0)
                given = args[nargs + i];
            else if (!timeout && PyUnicode_CompareWithASCIIString(key, "timeout") == 0)
                timeout = args[nargs + i];
            else
                nargs = 3;
        }
        if (nargs > 2) {
            PyErr_SetString(PyExc_TypeError, "acquire() takes blocking=True and timeout=-1");
            return -1;
        }
        if (given && (blocking = PyObject_IsTrue(given)) < 0) return -1;
    }
    int64_t deadline = 0;
    if (timeout) {
        double t = PyFloat_AsDouble(timeout);
        if (t == -1.0 && PyErr_Occurred()) {
            if (PyErr_ExceptionMatches(PyExc_TypeError))
                PyErr_Format(PyExc_TypeError, "timeout=%R: give a number of seconds, or -1 to wait for ever",
                             timeout);
            return -1;
        }
        if (t != -1.0) {
            if (!blocking) {
                PyErr_SetString(PyExc_ValueError, "can't specify a timeout for a non-blocking call");
                return -1;
            }
            if (t < 0) {
                PyErr_Format(PyExc_ValueError, "timeout=%R: give seconds >= 0, or -1 to wait for ever",
                             timeout);
                return -1;
            }
            if (t > 9223372036.0) { /* threading.TIMEOUT_MAX */
                PyErr_Format(PyExc_OverflowError, "timeout=%R is too large; use -1 to wait for ever",
                             timeout);
                return -1;
            }
            deadline = deadline_from(timeout);
            if (deadline == -1) return -1;
            if (deadline == -2) blocking = 0;
        }
    }
    *block = blocking;
    *until = deadline;
    return 0;
}

static PyObject *lock_acquire(PyLock *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    bool blocking = true;
    int64_t deadline = 0;
    if (unlikely(nargs || kwnames) && parse_acquire(args, nargs, kwnames, &blocking, &deadline) < 0)
        return NULL;
    int r = lock_take(self, blocking, deadline);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

static int lock_free(PyLock *self) {
    bool profiled = unlikely(load_relaxed(&prof_mutex_fraction));
    int64_t waited = profiled ? prof_contention(&self->l, load_relaxed(&self->held_since)) : 0;
    if (likely(glock_release(&self->l))) {
        if (unlikely(waited)) prof_contended(waited);
        return 0;
    }
    PyErr_Format(PyExc_RuntimeError, "release of %R, which nobody holds; acquire() it first", self);
    return -1;
}

static PyObject *lock_release(PyLock *self, PyObject *Py_UNUSED(unused)) {
    if (lock_free(self) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *lock_enter(PyLock *self, PyObject *Py_UNUSED(unused)) {
    if (lock_take(self, true, 0) < 0) return NULL;
    Py_RETURN_TRUE;
}

static PyObject *lock_exit(PyLock *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs)) {
    return lock_release(self, NULL);
}

static PyObject *lock_locked(PyLock *self, PyObject *Py_UNUSED(unused)) {
    return PyBool_FromLong(load_acquire(&self->l.word) != 0);
}

static PyObject *lock_owner(PyLock *self, void *Py_UNUSED(c)) {
    uint64_t id = load_relaxed(&self->owner);
    if (!load_acquire(&self->l.word) || !id) Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(id);
}

static PyObject *lock_nwaiters(PyLock *self, void *Py_UNUSED(c)) {
    return PyLong_FromUnsignedLong(load_relaxed(&self->l.nwaiters));
}

static PyObject *lock_waiting(PyLock *self, void *Py_UNUSED(c)) {
    uint32_t room = load_relaxed(&self->l.nwaiters) + 8; /* a few may come meanwhile */
    uint64_t *ids = PyMem_New(uint64_t, room);
    if (!ids) return PyErr_NoMemory();
    uint32_t n = glock_line(&self->l, ids, room);
    if (n > room) n = room;
    PyObject *result = PyTuple_New(n);
    for (uint32_t i = 0; result && i < n; i++) {
        PyObject *id = ids[i] ? PyLong_FromUnsignedLongLong(ids[i]) : Py_NewRef(Py_None);
        if (id)
            PyTuple_SET_ITEM(result, i, id);
        else
            Py_CLEAR(result);
    }
    PyMem_Free(ids);
    return result;
}

static PyObject *repr_with(PyLock *self, const char *more) {
    uint32_t waiters = load_relaxed(&self->l.nwaiters);
    uint64_t id = load_relaxed(&self->owner);
    const char *type = Py_TYPE(self)->tp_name;
    if (!load_acquire(&self->l.word))
        return PyUnicode_FromFormat("<unlocked %s object%s at %p>", type, more, self);
    if (id)
        return PyUnicode_FromFormat("<locked %s object by G %llu%s with %u waiting at %p>", type,
                                    (unsigned long long)id, more, waiters, self);
    return PyUnicode_FromFormat("<locked %s object by a thread%s with %u waiting at %p>", type, more, waiters,
                                self);
}

static PyObject *no_arguments_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    if (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs)))
        return PyErr_Format(PyExc_TypeError, "%s() takes no arguments", type->tp_name);
    return type->tp_alloc(type, 0);
}

static PyObject *lock_repr(PyLock *self) { return repr_with(self, ""); }

static void leaf_dealloc(PyLock *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->weakrefs) PyObject_ClearWeakRefs((PyObject *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---------------------------------------------------------------- RLock */

static PyObject *repr_with(PyLock *self, const char *more);

typedef struct {
    PyLock lock;          /* first: dumps and repr look at an RLock as at a Lock */
    _Atomic uint64_t key; /* of who holds it; 0: nobody */
    uint64_t count;       /* the holder's */
} PyRLock;

/* Who calls: odd for a G (ids are never used again), even for a thread. */
static uint64_t caller_key(void) {
    static _Thread_local char here;
    g *gp = current_g();
    return gp ? gp->id << 1 | 1 : (uint64_t)(uintptr_t)&here << 1;
}

static int rlock_take(PyRLock *self, bool blocking, int64_t deadline) {
    uint64_t me = caller_key();
    if (load_relaxed(&self->key) == me) {
        self->count++;
        return 1;
    }
    int r = lock_take(&self->lock, blocking, deadline);
    if (r == 1) {
        store_relaxed(&self->key, me);
        self->count = 1;
    }
    return r;
}

static int rlock_owned(PyRLock *self, const char *what) {
    if (likely(load_relaxed(&self->key) == caller_key())) return 0;
    PyErr_Format(PyExc_RuntimeError,
                 "%s of %R by a G or thread that doesn't hold it (cannot release un-acquired lock)", what,
                 self);
    return -1;
}

static PyObject *rlock_acquire(PyRLock *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    bool blocking = true;
    int64_t deadline = 0;
    if (unlikely(nargs || kwnames) && parse_acquire(args, nargs, kwnames, &blocking, &deadline) < 0)
        return NULL;
    int r = rlock_take(self, blocking, deadline);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

static PyObject *rlock_release(PyRLock *self, PyObject *Py_UNUSED(unused)) {
    if (rlock_owned(self, "release") < 0) return NULL;
    if (--self->count == 0) {
        store_relaxed(&self->key, 0);
        if (lock_free(&self->lock) < 0) return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *rlock_enter(PyRLock *self, PyObject *Py_UNUSED(unused)) {
    if (rlock_take(self, true, 0) < 0) return NULL;
    Py_RETURN_TRUE;
}

static PyObject *rlock_exit(PyRLock *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs)) {
    return rlock_release(self, NULL);
}

static PyObject *rlock_is_owned(PyRLock *self, PyObject *Py_UNUSED(unused)) {
    return PyBool_FromLong(load_relaxed(&self->key) == caller_key());
}

static PyObject *rlock_count(PyRLock *self, PyObject *Py_UNUSED(unused)) {
    bool mine = load_relaxed(&self->key) == caller_key();
    return PyLong_FromUnsignedLongLong(mine ? self->count : 0);
}

static PyObject *rlock_release_save(PyRLock *self, PyObject *Py_UNUSED(unused)) {
    if (rlock_owned(self, "release") < 0) return NULL;
    PyObject *saved = PyLong_FromUnsignedLongLong(self->count);
    if (!saved) return NULL;
    self->count = 1;
    PyObject *r = rlock_release(self, NULL);
    if (!r) Py_CLEAR(saved);
    Py_XDECREF(r);
    return saved;
}

/* Takes the lock whatever interrupts: a G meets that at its next park, a plain thread right
 * after. -1 with an exception set only where nobody can wait (seat_take). */
static int take_anyway(PyLock *self) {
    PyObject *late = NULL;
    g *gp = current_g();
    if (lock_take(self, false, 0) == 1) return 0;
    if (gp) mask_interrupts(host_g(gp), 1);
    while (lock_take(self, true, 0) < 0) {
        if (sched_self && !gp) return -1;
        Py_XSETREF(late, take_exception());
    }
    if (gp) mask_interrupts(host_g(gp), -1);
    if (late) raise_later(late);
    return 0;
}

static PyObject *rlock_acquire_restore(PyRLock *self, PyObject *saved) {
    uint64_t count = PyLong_AsUnsignedLongLong(saved);
    if (count == (uint64_t)-1 && PyErr_Occurred()) return NULL;
    if (take_anyway(&self->lock) < 0) return NULL;
    store_relaxed(&self->key, caller_key());
    self->count = count;
    Py_RETURN_NONE;
}

static PyObject *lock_acquire_anyway(PyLock *self, PyObject *Py_UNUSED(unused)) {
    if (take_anyway(self) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *lock_at_fork_reinit(PyLock *self, PyObject *Py_UNUSED(unused)) {
    self->l = (glock){.nwaiters = 0};
    store_relaxed(&self->owner, 0);
    Py_RETURN_NONE;
}

static PyObject *rlock_at_fork_reinit(PyRLock *self, PyObject *Py_UNUSED(unused)) {
    store_relaxed(&self->key, 0);
    self->count = 0;
    return lock_at_fork_reinit(&self->lock, NULL);
}

static PyObject *rlock_repr(PyRLock *self) {
    char count[32];
    snprintf(count, sizeof count, " count=%llu",
             (unsigned long long)(load_relaxed(&self->key) ? self->count : 0));
    return repr_with(&self->lock, count);
}

static PyMethodDef rlock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))rlock_acquire, METH_FASTCALL | METH_KEYWORDS,
     "acquire(blocking=True, timeout=-1)\n--\n\nTake the lock, once more if the caller holds it; return "
     "whether it was taken.\n\n"
     "timeout: seconds; -1 waits for ever. Raises Cancelled."},
    {"release", (PyCFunction)rlock_release, METH_NOARGS,
     "release()\n--\n\nUndo one acquire. Raises RuntimeError if the calling G (or thread) doesn't hold it."},
    {"locked", (PyCFunction)lock_locked, METH_NOARGS, "locked()\n--\n\nWhether somebody holds it."},
    {"_is_owned", (PyCFunction)rlock_is_owned, METH_NOARGS, NULL},
    {"_recursion_count", (PyCFunction)rlock_count, METH_NOARGS, NULL},
    {"_release_save", (PyCFunction)rlock_release_save, METH_NOARGS, NULL},
    {"_acquire_restore", (PyCFunction)rlock_acquire_restore, METH_O, NULL},
    {"_at_fork_reinit", (PyCFunction)rlock_at_fork_reinit, METH_NOARGS, NULL},
    {"__enter__", (PyCFunction)rlock_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))rlock_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))lock_acquire, METH_FASTCALL | METH_KEYWORDS,
     "acquire(blocking=True, timeout=-1)\n--\n\nTake the lock; return whether it was taken.\n\n"
     "timeout: seconds; -1 waits for ever. Parks the G, never its M. Raises Cancelled."},
    {"release", (PyCFunction)lock_release, METH_NOARGS,
     "release()\n--\n\nFree the lock; any G or thread may. Raises RuntimeError if nobody holds it."},
    {"locked", (PyCFunction)lock_locked, METH_NOARGS, "locked()\n--\n\nWhether somebody holds it."},
    {"_acquire_anyway", (PyCFunction)lock_acquire_anyway, METH_NOARGS, NULL},
    {"_at_fork_reinit", (PyCFunction)lock_at_fork_reinit, METH_NOARGS, NULL},
    {"__enter__", (PyCFunction)lock_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))lock_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lock_getset[] = {
    {"owner", (getter)lock_owner, NULL,
     "int or None: id of the G that holds it; None if free or held by a thread.", NULL},
    {"waiters", (getter)lock_nwaiters, NULL, "int: how many wait for it.", NULL},
    {"waiting", (getter)lock_waiting, NULL,
     "tuple: ids of the G's that wait for it, first in line first; None for a thread.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef lock_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PyLock, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_new, no_arguments_new},
    {Py_tp_dealloc, leaf_dealloc},
    {Py_tp_methods, lock_methods},
    {Py_tp_getset, lock_getset},
    {Py_tp_members, lock_members},
    {Py_tp_repr, lock_repr},
    {Py_tp_doc, "Lock()\n--\n\nthreading.Lock's interface for G's and plain threads.\n\n"
                "Who has waited for 1 ms gets it by direct hand-off (Go's starvation mode)."},
    {0, NULL},
};

static PyType_Spec lock_spec = {
    .name = "gmpy_rt.Lock",
    .basicsize = sizeof(PyLock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lock_slots,
};

static PyType_Slot rlock_slots[] = {
    {Py_tp_new, no_arguments_new},
    {Py_tp_dealloc, leaf_dealloc},
    {Py_tp_methods, rlock_methods},
    {Py_tp_getset, lock_getset},
    {Py_tp_members, lock_members},
    {Py_tp_repr, rlock_repr},
    {Py_tp_doc, "RLock()\n--\n\nthreading.RLock's interface; the owner is a G (or a plain thread)."},
    {0, NULL},
};

static PyType_Spec rlock_spec = {
    .name = "gmpy_rt.RLock",
    .basicsize = sizeof(PyRLock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = rlock_slots,
};

/* ---------------------------------------------------------------- WaitGroup */

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    waitgroup wg;
} PyWaitGroup;

static PyObject *wg_add_n(PyWaitGroup *self, int64_t n) {
    if (waitgroup_add(&self->wg, n)) Py_RETURN_NONE;
    PyErr_Format(PyExc_ValueError,
                 "WaitGroup: the counter would go below 0 (add(%lld) at %lld); more done() than add()",
                 (long long)n, (long long)self->wg.count);
    return NULL;
}

static PyObject *wg_add(PyWaitGroup *self, PyObject *const *args, Py_ssize_t nargs) {
    long long n = 1;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "add() takes one number: add(n=1)");
        return NULL;
    }
    if (nargs && (n = PyLong_AsLongLong(args[0])) == -1 && PyErr_Occurred()) return NULL;
    return wg_add_n(self, n);
}

static PyObject *wg_done(PyWaitGroup *self, PyObject *Py_UNUSED(unused)) { return wg_add_n(self, -1); }

static PyObject *wg_wait(PyWaitGroup *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"timeout", NULL};
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:wait", names, &timeout)) return NULL;
    int64_t deadline = deadline_from(timeout);
    if (deadline == -1) return NULL;
    if (waitgroup_wait(&self->wg, NULL, NULL)) Py_RETURN_TRUE;
    if (deadline == -2) Py_RETURN_FALSE;
    seat s;
    if (seat_take(&s) < 0) return NULL;
    if (waitgroup_wait(&self->wg, s.parker, s.waiter)) Py_RETURN_TRUE;
    int why = park(&s, deadline, WAIT_GROUP);
    if (why == WAKE_OK) Py_RETURN_TRUE;
    waitgroup_unwait(&self->wg, s.waiter);
    if (why == PARK_ERROR) return NULL;
    Py_RETURN_FALSE;
}

static PyObject *wg_count(PyWaitGroup *self, void *Py_UNUSED(c)) {
    return PyLong_FromLongLong(self->wg.count);
}

static PyMethodDef wg_methods[] = {
    {"add", (PyCFunction)(void (*)(void))wg_add, METH_FASTCALL,
     "add(n=1, /)\n--\n\nAdd n to the counter. Raises ValueError if it would go below 0."},
    {"done", (PyCFunction)wg_done, METH_NOARGS, "done()\n--\n\nadd(-1)."},
    {"wait", (PyCFunction)(void (*)(void))wg_wait, METH_VARARGS | METH_KEYWORDS,
     "wait(timeout=None)\n--\n\nWait until the counter is 0. Returns False after timeout seconds."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef wg_getset[] = {
    {"count", (getter)wg_count, NULL, "int: the counter.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef wg_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PyWaitGroup, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot wg_slots[] = {
    {Py_tp_new, no_arguments_new},
    {Py_tp_dealloc, leaf_dealloc},
    {Py_tp_methods, wg_methods},
    {Py_tp_getset, wg_getset},
    {Py_tp_members, wg_members},
    {Py_tp_doc, "WaitGroup()\n--\n\nGo's sync.WaitGroup: wait for a number of things to be done."},
    {0, NULL},
};

static PyType_Spec wg_spec = {
    .name = "gmpy_rt._door.WaitGroup",
    .basicsize = sizeof(PyWaitGroup),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = wg_slots,
};

int pysync_init(PyObject *module) {
    PyObject *lock = PyType_FromModuleAndSpec(module, &lock_spec, NULL);
    if (!lock || PyModule_AddObjectRef(module, "Lock", lock) < 0) return -1;
    PyObject *rlock = PyType_FromModuleAndSpec(module, &rlock_spec, NULL);
    if (!rlock || PyModule_AddObjectRef(module, "RLock", rlock) < 0) return -1;
    PyObject *wg = PyType_FromModuleAndSpec(module, &wg_spec, NULL);
    return wg ? PyModule_AddObjectRef(module, "WaitGroup", wg) : -1;
}
