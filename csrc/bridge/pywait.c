/* pywait.c: Waiters, the wait queue under conditions, events, barriers, queues and
 * reader-writer locks (gmpy_rt/sync.py), and Semaphore.
 *
 * Waiters has no state but who waits, first come, first woken. A wait has two halves, so
 * that nothing gets lost between "I have looked" and "I sleep":
 *
 *     ticket = waiters.add()      from here on a wake counts for it,
 *     (look again, release a lock)
 *     ticket.wait()               here too, when it has come already
 *
 * A ticket that was woken and dies without a wait (an exception came in between) passes the
 * wake-up on, unless everybody was woken. A wait that a timeout or a cancel ended was
 * not woken: who ends a wait claims its parker first, and there is one winner.
 *
 * Semaphore: a unit that is released goes straight to the first in line, so units neither
 * get lost nor overtake. Invariant: a value above 0 means that nobody waits. */
#include "bridge.h"

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    mutex lock;
    waitq q;
    uint32_t n;
    uint8_t reason;
} PyWaiters;

typedef struct {
    PyObject_HEAD
    PyWaiters *ws;
    waiter w;   /* w.parker is NULL until wait(); w.ok: woken */
    bool taken; /* wait() has reported the wake-up */
    bool used;
} PyTicket;

static PyTypeObject *Ticket_Type;

static void unlink_waiter(PyWaiters *self, waiter *w) {
    if (!w->linked) return;
    waitq_remove(&self->q, w);
    self->n--;
}

static uint32_t wake(PyWaiters *self, uint64_t n) {
    waiter *chain = NULL, *w;
    uint32_t woken = 0;
    bool all = n == UINT64_MAX;
    bool is_lock = self->reason == WAIT_RLOCKED || self->reason == WAIT_WLOCKED;
    int64_t waited = 0;
    mutex_lock(&self->lock);
    while (woken < n && (w = self->q.first)) {
        unlink_waiter(self, w);
        if (w->parker && !parker_claim(w->parker, w->seq, WAKE_OK)) continue; /* its wait ended otherwise */
        woken++;
        w->ok = true;
        if (is_lock) waited += prof_waited(w);
        w->index = all; /* woken with everybody: nobody to pass it on to */
        if (!w->parker) continue;
        w->next = chain;
        chain = w;
    }
    mutex_unlock(&self->lock);
    while ((w = chain)) {
        chain = w->next;
        w->next = NULL;
        parker_unpark(w->parker);
    }
    if (unlikely(waited) && prof_mutex_sampled()) prof_contended(waited);
    return woken;
}

/* 1: woken; 0: not in time; -1: exception. w is linked, or about to be if `push`. */
static int wait_on(PyWaiters *self, seat *s, waiter *w, bool push, int64_t deadline) {
    mutex_lock(&self->lock);
    if (!push && w->ok) {
        mutex_unlock(&self->lock);
        return 1;
    }
    uint64_t seq = wait_begin(s->parker);
    if (push) {
        waiter_init(w, s->parker, seq);
        waitq_push(&self->q, w);
        self->n++;
    } else {
        w->parker = s->parker;
        w->seq = seq;
    }
    mutex_unlock(&self->lock);
    int why = park(s, deadline, self->reason);
    if (why == WAKE_OK) return 1;
    mutex_lock(&self->lock);
    unlink_waiter(self, w);
    mutex_unlock(&self->lock);
    return why == PARK_ERROR ? -1 : 0;
}

static int timeout_arg(PyObject *args, PyObject *kwargs, const char *format, int64_t *deadline) {
    static char *names[] = {"timeout", NULL};
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &timeout)) return -1;
    return (*deadline = deadline_from(timeout)) == -1 ? -1 : 0;
}

static PyObject *waiters_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"what", NULL};
    const char *what = wait_reasons[WAIT_PARK];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|s:Waiters", names, &what)) return NULL;
    uint8_t reason = 0;
    while (reason < WAIT_REASONS && strcmp(what, wait_reasons[reason])) reason++;
    if (reason == WAIT_REASONS) {
        PyErr_Format(PyExc_ValueError, "Waiters(%s): not one of the wait reasons of pylook.c", what);
        return NULL;
    }
    PyWaiters *self = (PyWaiters *)type->tp_alloc(type, 0);
    if (self) self->reason = reason;
    return (PyObject *)self;
}

static PyObject *waiters_wait(PyWaiters *self, PyObject *args, PyObject *kwargs) {
    int64_t deadline;
    if (timeout_arg(args, kwargs, "|O:wait", &deadline) < 0) return NULL;
    if (deadline == -2) Py_RETURN_FALSE;
    seat s;
    if (seat_take(&s) < 0) return NULL;
    int r = wait_on(self, &s, s.waiter, true, deadline);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

static PyObject *waiters_add(PyWaiters *self, PyObject *Py_UNUSED(unused)) {
    PyTicket *t = (PyTicket *)Ticket_Type->tp_alloc(Ticket_Type, 0);
    if (!t) return NULL;
    t->ws = (PyWaiters *)Py_NewRef((PyObject *)self);
    t->w.since = prof_mutex_time();
    mutex_lock(&self->lock);
    waitq_push(&self->q, &t->w);
    self->n++;
    mutex_unlock(&self->lock);
    return (PyObject *)t;
}

static PyObject *waiters_wake(PyWaiters *self, PyObject *const *args, Py_ssize_t nargs) {
    Py_ssize_t n = 1;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "wake() takes one number: wake(n=1)");
        return NULL;
    }
    if (nargs && (n = PyNumber_AsSsize_t(args[0], PyExc_OverflowError)) == -1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromUnsignedLong(n > 0 ? wake(self, (uint64_t)n) : 0);
}

static PyObject *waiters_wake_all(PyWaiters *self, PyObject *Py_UNUSED(unused)) {
    return PyLong_FromUnsignedLong(wake(self, UINT64_MAX));
}

static Py_ssize_t waiters_len(PyWaiters *self) { return self->n; }
static int waiters_bool(PyWaiters *Py_UNUSED(self)) { return 1; }

static void waiters_dealloc(PyWaiters *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->weakrefs) PyObject_ClearWeakRefs((PyObject *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---------------------------------------------------------------- Ticket */

/* It leaves the queue if it can't wait: what raises may keep it alive. */
static PyObject *ticket_error(PyTicket *self) {
    mutex_lock(&self->ws->lock);
    unlink_waiter(self->ws, &self->w);
    self->used = true;
    mutex_unlock(&self->ws->lock);
    return NULL;
}

static PyObject *ticket_wait(PyTicket *self, PyObject *args, PyObject *kwargs) {
    int64_t deadline;
    if (timeout_arg(args, kwargs, "|O:wait", &deadline) < 0) return ticket_error(self);
    mutex_lock(&self->ws->lock);
    bool again = self->used, woken = self->w.ok;
    self->used = true;
    if (!again && !woken && deadline == -2) unlink_waiter(self->ws, &self->w);
    mutex_unlock(&self->ws->lock);
    if (again) {
        PyErr_SetString(PyExc_RuntimeError, "a ticket waits once; add() a new one");
        return NULL;
    }
    int r = woken ? 1 : 0;
    if (!woken && deadline != -2) {
        seat s;
        if (seat_take(&s) < 0) return ticket_error(self);
        r = wait_on(self->ws, &s, &self->w, false, deadline);
    }
    self->taken = r == 1;
    return r < 0 ? NULL : PyBool_FromLong(r);
}

/* Whether it was woken and hadn't reported that yet; *all: with everybody else. */
static bool ticket_leave(PyTicket *self, bool *all) {
    mutex_lock(&self->ws->lock);
    unlink_waiter(self->ws, &self->w);
    bool woken = self->w.ok && !self->taken;
    *all = self->w.index;
    self->taken = self->used = true;
    mutex_unlock(&self->ws->lock);
    return woken;
}

static PyObject *ticket_py_drop(PyTicket *self, PyObject *Py_UNUSED(unused)) {
    bool all;
    return PyBool_FromLong(ticket_leave(self, &all));
}

static void ticket_dealloc(PyTicket *self) {
    PyTypeObject *type = Py_TYPE(self);
    bool all;
    if (self->ws && ticket_leave(self, &all) && !all) wake(self->ws, 1);
    Py_CLEAR(self->ws);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---------------------------------------------------------------- Semaphore */

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    mutex lock;
    waitq q;
    int64_t value, bound; /* bound: INT64_MAX if none */
} PySema;

static PyObject *sema_make(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs)) {
    PySema *self = (PySema *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->value = 1;
    self->bound = INT64_MAX;
    return (PyObject *)self;
}

static int sema_init(PySema *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"value", "_bounded", NULL};
    long long value = 1;
    int bounded = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|Lp:Semaphore", names, &value, &bounded)) return -1;
    if (value < 0) {
        PyErr_Format(PyExc_ValueError, "value=%lld: semaphore initial value must be >= 0", value);
        return -1;
    }
    mutex_lock(&self->lock);
    self->value = value;
    self->bound = bounded ? value : INT64_MAX;
    mutex_unlock(&self->lock);
    return 0;
}

static int sema_take(PySema *self, bool wait, int64_t deadline) {
    seat s;
    mutex_lock(&self->lock);
    bool got = self->value > 0;
    self->value -= got;
    mutex_unlock(&self->lock);
    if (got || !wait) return got;
    if (seat_take(&s) < 0) return -1;
    mutex_lock(&self->lock);
    if (self->value > 0) {
        self->value--;
        mutex_unlock(&self->lock);
        return 1;
    }
    waiter_init(s.waiter, s.parker, wait_begin(s.parker));
    s.waiter->since = prof_mutex_time();
    waitq_push(&self->q, s.waiter);
    mutex_unlock(&self->lock);
    int why = park(&s, deadline, WAIT_SEMAPHORE);
    if (why == WAKE_OK) return 1;
    mutex_lock(&self->lock);
    waitq_remove(&self->q, s.waiter);
    mutex_unlock(&self->lock);
    return why == PARK_ERROR ? -1 : 0;
}

/* False: above the bound; nothing was changed. */
static bool sema_give(PySema *self, int64_t n) {
    waiter *chain = NULL, *w;
    int64_t waited = 0;
    mutex_lock(&self->lock);
    bool ok = n <= self->bound - self->value;
    while (ok && n > 0 && (w = waitq_claim(&self->q, WAKE_OK))) {
        n--;
        waited += prof_waited(w);
        w->next = chain;
        chain = w;
    }
    if (ok) self->value += n;
    mutex_unlock(&self->lock);
    while ((w = chain)) {
        chain = w->next;
        w->next = NULL;
        parker_unpark(w->parker);
    }
    if (unlikely(waited) && prof_mutex_sampled()) prof_contended(waited);
    return ok;
}

static PyObject *sema_acquire(PySema *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"blocking", "timeout", NULL};
    int blocking = 1;
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|pO:acquire", names, &blocking, &timeout)) return NULL;
    if (!blocking && timeout != Py_None) {
        PyErr_SetString(PyExc_ValueError, "can't specify timeout for non-blocking acquire");
        return NULL;
    }
    int64_t deadline = deadline_from(timeout);
    if (deadline == -1) return NULL;
    int r = sema_take(self, blocking && deadline != -2, deadline);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

static PyObject *sema_release(PySema *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"n", NULL};
    long long n = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|L:release", names, &n)) return NULL;
    if (n < 1) {
        PyErr_Format(PyExc_ValueError, "n=%lld: n must be one or more", n);
        return NULL;
    }
    if (sema_give(self, n)) Py_RETURN_NONE;
    PyErr_Format(PyExc_ValueError, "Semaphore released too many times: its value may not exceed %lld",
                 (long long)self->bound);
    return NULL;
}

static PyObject *sema_enter(PySema *self, PyObject *Py_UNUSED(unused)) {
    if (sema_take(self, true, 0) < 0) return NULL;
    Py_RETURN_TRUE;
}

static PyObject *sema_exit(PySema *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs)) {
    if (sema_give(self, 1)) Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, "Semaphore released too many times");
    return NULL;
}

static PyObject *sema_value(PySema *self, void *Py_UNUSED(c)) { return PyLong_FromLongLong(self->value); }

static PyObject *sema_bound(PySema *self, void *Py_UNUSED(c)) { return PyLong_FromLongLong(self->bound); }

/* ---------------------------------------------------------------- module */

static PyMethodDef waiters_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))waiters_wait, METH_VARARGS | METH_KEYWORDS,
     "wait(timeout=None)\n--\n\nPark until woken; False after timeout seconds. Raises Cancelled."},
    {"add", (PyCFunction)waiters_add, METH_NOARGS,
     "add()\n--\n\nA ticket: from now on a wake counts for it; its wait() parks."},
    {"wake", (PyCFunction)(void (*)(void))waiters_wake, METH_FASTCALL,
     "wake(n=1, /)\n--\n\nWake the first n; return how many there were."},
    {"wake_all", (PyCFunction)waiters_wake_all, METH_NOARGS,
     "wake_all()\n--\n\nWake everybody; return how many."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef waiters_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PyWaiters, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot waiters_slots[] = {
    {Py_tp_new, waiters_new},
    {Py_tp_dealloc, waiters_dealloc},
    {Py_tp_methods, waiters_methods},
    {Py_tp_members, waiters_members},
    {Py_sq_length, waiters_len},
    {Py_nb_bool, waiters_bool},
    {Py_tp_doc, "Waiters(what='park')\n--\n\nA wait queue; what: the name of the wait in dumps."},
    {0, NULL},
};
static PyType_Spec waiters_spec = {
    .name = "gmpy_rt._door.Waiters",
    .basicsize = sizeof(PyWaiters),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = waiters_slots,
};

static PyMethodDef ticket_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))ticket_wait, METH_VARARGS | METH_KEYWORDS,
     "wait(timeout=None)\n--\n\nPark until woken, if that hasn't happened yet; False after timeout seconds."},
    {"drop", (PyCFunction)ticket_py_drop, METH_NOARGS,
     "drop()\n--\n\nNo wait after all. Returns whether a wake-up had come: that is the caller's to pass on."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot ticket_slots[] = {
    {Py_tp_dealloc, ticket_dealloc}, {Py_tp_methods, ticket_methods}, {0, NULL}};
static PyType_Spec ticket_spec = {
    .name = "gmpy_rt._door.Ticket",
    .basicsize = sizeof(PyTicket),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ticket_slots,
};

static PyMethodDef sema_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))sema_acquire, METH_VARARGS | METH_KEYWORDS,
     "acquire(blocking=True, timeout=None)\n--\n\nTake a unit, first come, first served; return whether one "
     "was taken.\n\n"
     "timeout: seconds; None waits for ever. Raises Cancelled."},
    {"release", (PyCFunction)(void (*)(void))sema_release, METH_VARARGS | METH_KEYWORDS,
     "release(n=1)\n--\n\nGive n units back. Raises ValueError for n < 1, or above a BoundedSemaphore's "
     "bound."},
    {"__enter__", (PyCFunction)sema_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))sema_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef sema_getset[] = {
    {"value", (getter)sema_value, NULL, "int: free units.", NULL},
    {"_value", (getter)sema_value, NULL, NULL, NULL},
    {"_initial_value", (getter)sema_bound, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMemberDef sema_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PySema, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static void sema_dealloc(PySema *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->weakrefs) PyObject_ClearWeakRefs((PyObject *)self);
    type->tp_free(self);
    Py_DECREF(type);
}
static PyType_Slot sema_slots[] = {
    {Py_tp_new, sema_make},
    {Py_tp_init, sema_init},
    {Py_tp_dealloc, sema_dealloc},
    {Py_tp_methods, sema_methods},
    {Py_tp_getset, sema_getset},
    {Py_tp_members, sema_members},
    {Py_tp_doc, "Semaphore(value=1)\n--\n\nA number of units. First come, first served."},
    {0, NULL},
};
static PyType_Spec sema_spec = {
    .name = "gmpy_rt._door.Semaphore",
    .basicsize = sizeof(PySema),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sema_slots,
};

int pywait_init(PyObject *module) {
    Ticket_Type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &ticket_spec, NULL);
    PyObject *waiters = PyType_FromModuleAndSpec(module, &waiters_spec, NULL);
    PyObject *sema = PyType_FromModuleAndSpec(module, &sema_spec, NULL);
    if (!Ticket_Type || !waiters || !sema ||
        PyModule_AddObjectRef(module, "Ticket", (PyObject *)Ticket_Type) < 0 ||
        PyModule_AddObjectRef(module, "Waiters", waiters) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "Semaphore", sema);
}
