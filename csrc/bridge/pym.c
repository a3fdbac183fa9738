/* pym.c: an M as a Python thread; switching between greenlets; parking. */
#include "bridge.h"

#include <math.h>

#include "greenlet/greenlet.h"

static PyObject *on_m_start; /* called with the M's number on its own thread */

/* ---------------------------------------------------------------- who waits */

/* A plain thread's. A signal's handler (or a finalizer) that runs while it waits may wait, too,
 * and then sits further in. Never freed: who wakes it may touch it late, and only a main thread,
 * which runs the handlers, gets a second one as a rule. */
typedef struct thread_seat {
    parker parker;
    waiter waiter;
    struct thread_seat *inner;
} thread_seat;

static _Thread_local thread_seat outermost;
static _Thread_local thread_seat *innermost; /* NULL: outermost */

static int raise_now(void *exc) {
    PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)exc), exc);
    Py_DECREF((PyObject *)exc);
    return -1;
}

/* Signals' handlers run in the main thread, and so do pending calls. */
void raise_later(PyObject *exc) {
    if (Py_AddPendingCall(raise_now, exc) == 0) return;
    /* Too many are pending. Better without what it carries than not at all. */
    PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), (PyObject *)Py_TYPE(exc));
    Py_DECREF(exc);
}

/* PyErr_CheckSignals while s is waited on. */
static int check_signals(seat *s) {
    thread_seat *mine = containerof(s->parker, thread_seat, parker);
    if (!mine->inner && !(mine->inner = calloc(1, sizeof *mine))) {
        PyErr_NoMemory();
        return -1;
    }
    innermost = mine->inner;
    int r = PyErr_CheckSignals();
    innermost = mine;
    return r;
}

int seat_take(seat *s) {
    m *mp = sched_self;
    if (mp) {
        s->g = load_relaxed(&mp->cur);
        if (!s->g) {
            PyErr_SetString(PyExc_RuntimeError,
                            "a finalizer that runs outside any G can't wait; hand the work to go(...)");
            return -1;
        }
        s->parker = &s->g->parker;
        s->waiter = &s->g->waiter;
        return 0;
    }
    thread_seat *mine = innermost ? innermost : &outermost;
    s->g = NULL;
    s->parker = &mine->parker;
    s->waiter = &mine->waiter;
    return 0;
}

/* ---------------------------------------------------------------- detach, attach */

void py_detach(m *mp) {
    (void)mp;
    PyEval_SaveThread();
}

void py_attach(m *mp) { PyEval_RestoreThread(((mhost *)mp->host)->tstate); }

/* ---------------------------------------------------------------- switching */

static int switch_greenlet(PyObject *to) {
    PyObject *r = PyGreenlet_Switch((PyGreenlet *)to, NULL, NULL);
    Py_XDECREF(r);
    return r ? 0 : -1;
}

static PyObject *idle_pop(mhost *h) {
    Py_ssize_t n = PyList_GET_SIZE(h->idle);
    if (n == 0) return NULL;
    PyObject *worker = Py_NewRef(PyList_GET_ITEM(h->idle, n - 1));
    PyList_SetSlice(h->idle, n - 1, n, NULL);
    return worker;
}

/* Runs `next` on this M now. Returns when the calling greenlet is switched to again.
 * Inside the core. */
static int switch_to(m *mp, g *next) {
    mhost *h = mp->host;
    store_relaxed(&mp->cur, next);
    PyObject *to = host_g(next)->greenlet;
    if (to) return switch_greenlet(to);
    h->pending = next;
    to = idle_pop(h);
    if (!to) return switch_greenlet(h->hub);
    int r = switch_greenlet(to);
    Py_DECREF(to);
    return r;
}

/* The greenlet that runs: usually the G's worker, but a G may run greenlets of its own, and is
 * then parked in whichever runs now. Each greenlet has a data stack of its own, so the root
 * chunk tells; asking greenlet itself costs a twelfth of a switch (3.14t). */
static PyObject *running_greenlet(PyG *self, PyThreadState *ts) {
    _PyStackChunk *chunk = ts->datastack_chunk;
    while (chunk && chunk->previous) chunk = chunk->previous;
    if (likely(chunk && chunk == self->root)) return Py_NewRef(self->worker);
    return (PyObject *)PyGreenlet_GetCurrent();
}

/* The calling G gives its M to the next g (maybe itself again). Inside the core before,
 * outside after. */
static int schedule(m *mp, g *gp, int64_t now) {
    g *next = sched_next_at(mp, now);
    int r = 0;
    if (next != gp) {
        PyG *self = host_g(gp);
        mhost *h = mp->host;
        self->greenlet = running_greenlet(self, h->tstate);
        anchor_note(gp, h->tstate);
        r = next ? switch_to(mp, next) : switch_greenlet(h->hub);
        gp->frame = NULL;
        Py_CLEAR(self->greenlet);
    }
    sched_leave(mp);
    return r;
}

/* ---------------------------------------------------------------- parking */

static out_of_line int park_thread(seat *s, int64_t deadline) {
    uint64_t seq = load_relaxed(&s->parker->word) >> 2;
    for (;;) {
        bool woken;
        Py_BEGIN_ALLOW_THREADS
        woken = note_sleep_signals(&s->parker->note, deadline);
        Py_END_ALLOW_THREADS
        if (woken) return s->parker->wake;
        bool signalled = check_signals(s) < 0;
        if (!signalled && !(deadline && nanotime() >= deadline)) continue;
        if (wait_take_back(s->parker, seq, WAKE_TIMEOUT)) return signalled ? PARK_ERROR : WAKE_TIMEOUT;
        /* Somebody claimed the wait just now: the note is about to be set. */
        PyObject *exc = signalled ? take_exception() : NULL;
        note_sleep(&s->parker->note, 0);
        /* What the wake-up carries mustn't be lost: the signal's exception comes right after. */
        if (exc) raise_later(exc);
        return s->parker->wake;
    }
}

/* Before and after the switch are functions of their own: what they keep on the C stack isn't
 * copied with every switch (bridge.h). Returns the time, or PARK_ERROR. */
static out_of_line int64_t park_begin(g *gp, int64_t deadline, uint8_t reason) {
    m *mp = sched_self;
    parker *k = &gp->parker;
    uint64_t seq = load_relaxed(&k->word) >> 2;
    no_raise(load_relaxed(&mp->host), gp);
    p *pp = sched_enter(mp);
    int64_t now = nanotime();
    store_relaxed(&gp->wait_since, now);
    store_relaxed(&gp->ran_ns, 0);
    store_release(&gp->reason, reason); /* whoever sees it sees since when */
    count_add(&pp->stat.parks, 1);
    /* Order: the wait has begun (seq_cst), then the look at cancel; interrupt_g sets cancel,
     * then looks for a wait. */
    if (unlikely(load_seq(&gp->cancel)) && wait_take_back(k, seq, WAKE_CANCEL)) {
        sched_leave(mp);
        return raise_interrupt(host_g(gp));
    }
    if (deadline) {
        if (!timers_add(&pp->timers, &gp->timer, deadline, k, seq)) {
            if (wait_take_back(k, seq, WAKE_CANCEL)) {
                sched_leave(mp);
                PyErr_NoMemory();
                return PARK_ERROR;
            }
        } else
            sched_timer_added(deadline);
    }
    trace_park(gp, reason, now);
    return now;
}

static out_of_line int park_end(g *gp, int r, bool timed, uint8_t reason) {
    if (timed) timer_remove(&gp->timer);
    store_relaxed(&gp->reason, WAIT_NONE);
    prof_blocked(gp, reason);
    if (unlikely(r < 0)) return PARK_ERROR;
    int why = gp->parker.wake;
    if (unlikely(why == WAKE_CANCEL)) return raise_interrupt(host_g(gp));
    /* If it was cancelled after it was woken, before it ran, its next park raises that; should
     * it turn into a hog first, sysmon sees to it. */
    return why;
}

int park_g(g *gp, int64_t deadline, uint8_t reason) {
    int64_t now = park_begin(gp, deadline, reason);
    if (unlikely(now < 0)) return PARK_ERROR;
    return park_end(gp, schedule(sched_self, gp, now), deadline != 0, reason);
}

int park(seat *s, int64_t deadline, uint8_t reason) {
    return s->g ? park_g(s->g, deadline, reason) : park_thread(s, deadline);
}

static out_of_line int64_t yield_begin(m *mp, g *gp, bool preempted) {
    no_raise(load_relaxed(&mp->host), gp);
    p *pp = sched_enter(mp);
    if (preempted) {
        mp->yield_to_global = true;
        if (pp) count_add(&pp->stat.preemptions, 1);
    }
    int64_t now = nanotime();
    sched_yield_g(mp, gp, now);
    return now;
}

int yield_now(bool preempted) {
    m *mp = sched_self;
    g *gp = mp ? load_relaxed(&mp->cur) : NULL;
    if (!gp) return 0;
    if (schedule(mp, gp, yield_begin(mp, gp, preempted)) < 0) return -1;
    if (unlikely(load_relaxed(&gp->cancel)) && !preempted) return raise_interrupt(host_g(gp));
    return 0;
}

void lock_m(m *mp, PyG *self, int32_t by) {
    self->locks += by;
    mp->locks += by;
    store_relaxed(&mp->no_fresh, mp->locks > 0 || mp->solo);
}

int seconds_from(PyObject *timeout, double *s) {
    *s = PyFloat_AsDouble(timeout);
    if (*s == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "timeout=%R: give a number of seconds, or None to wait for ever",
                         timeout);
        return -1;
    }
    if (!isnan(*s)) return 0;
    PyErr_SetString(PyExc_ValueError, "timeout=nan: give a number of seconds, or None to wait for ever");
    return -1;
}

int64_t deadline_from(PyObject *timeout) {
    double s;
    if (timeout == Py_None || timeout == NULL) return 0;
    if (seconds_from(timeout, &s) < 0) return -1;
    if (s <= 0) return -2;
    if (s > 1e9) return 0; /* 30 years: for ever */
    /* Never early by the kernel's clock, from which ours differs by up to a microsecond or two. */
    return nanotime() + (int64_t)(s * 1e9) + 2 * MICROSECOND;
}

/* ---------------------------------------------------------------- workers and the hub */

static out_of_line g *worker_begin(mhost *h, PyObject *me) {
    g *gp = h->pending;
    h->pending = NULL;
    host_g(gp)->worker = me;
    host_g(gp)->root = h->tstate->datastack_chunk;
    return gp;
}

/* The worker has ended a G. Whether it has the next to run, now or after a pause. */
static out_of_line bool worker_next(mhost *h, PyObject *me) {
    m *mp = h->mp;
    sched_enter(mp);
    g *next = sched_next(mp);
    if (!next) return false;
    if (!host_g(next)->greenlet) {
        store_relaxed(&mp->cur, next);
        h->pending = next;
        return true;
    }
    if (PyList_Append(h->idle, me) < 0) { /* no memory: this worker ends, the hub goes on */
        PyErr_Clear();
        h->pending = next;
        return false;
    }
    return switch_to(mp, next) == 0 && h->pending;
}

static PyObject *worker_run(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused)) {
    mhost *h = sched_self->host;
    PyObject *me = (PyObject *)PyGreenlet_GetCurrent();
    if (!me) return NULL;
    stack_root(h->tstate);
    if (h->pending) do
            pyg_run(h->mp, worker_begin(h, me));
        while (worker_next(h, me));
    Py_DECREF(me);
    Py_RETURN_NONE;
}

static PyMethodDef worker_def = {"worker", worker_run, METH_NOARGS, NULL};

/* The thread's main greenlet: starts workers; everything else goes from G to G. */
static void hub_loop(m *mp, mhost *h) {
    PyObject *run = PyCFunction_New(&worker_def, NULL);
    for (;;) {
        g *next = h->pending;
        h->pending = NULL;
        if (!next) {
            next = sched_next(mp);
            if (!next) break;
        }
        store_relaxed(&mp->cur, next);
        PyObject *to = host_g(next)->greenlet;
        if (!to) {
            h->pending = next;
            to = idle_pop(h);
            if (!to) to = (PyObject *)PyGreenlet_New(run, (PyGreenlet *)h->hub);
            if (!to) Py_FatalError("gmpy_rt: no memory for a greenlet");
        } else
            Py_INCREF(to);
        if (switch_greenlet(to) < 0) PyErr_WriteUnraisable(to);
        Py_DECREF(to);
    }
    /* Stopping: idle workers come back from their switch with nothing pending and end. */
    store_relaxed(&mp->cur, NULL);
    for (PyObject *worker; (worker = idle_pop(h)); Py_DECREF(worker))
        if (switch_greenlet(worker) < 0) PyErr_Clear();
    Py_XDECREF(run);
}

void py_m_main(m *mp) {
    mhost *h = calloc(1, sizeof *h);
    PyGILState_STATE state = PyGILState_Ensure();
    if (!h) Py_FatalError("gmpy_rt: no memory for an M");
    h->mp = mp;
    h->tstate = PyThreadState_Get();
    h->hub = (PyObject *)PyGreenlet_GetCurrent();
    h->idle = PyList_New(0);
    store_release(&mp->host, h);
    if (on_m_start) {
        PyObject *r = PyObject_CallFunction(on_m_start, "I", mp->id);
        if (!r) PyErr_WriteUnraisable(on_m_start);
        Py_XDECREF(r);
    }
    hub_loop(mp, h);
    mutex_lock(&h->lock);
    h->tstate = NULL;
    mutex_unlock(&h->lock);
    Py_CLEAR(h->idle);
    Py_CLEAR(h->hub);
    PyGILState_Release(state);
}

/* ---------------------------------------------------------------- builtins */

static PyObject *door_gosched(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    if (!sched_self) {
        PyErr_SetString(PyExc_RuntimeError,
                        "gosched() outside a runtime: call it in a function started by run() or go()");
        return NULL;
    }
    if (yield_now(false) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *door_sleep(PyObject *Py_UNUSED(module), PyObject *arg) {
    seat s;
    int64_t deadline = deadline_from(arg);
    if (arg == Py_None || (deadline == -1 && PyErr_ExceptionMatches(PyExc_TypeError))) {
        PyErr_Format(PyExc_TypeError, "sleep(%R): give a number of seconds", arg);
        return NULL;
    }
    if (deadline == -1) return NULL;
    if (deadline == -2) {
        if (yield_now(false) < 0) return NULL;
        Py_RETURN_NONE;
    }
    if (seat_take(&s) < 0) return NULL;
    wait_begin(s.parker);
    if (park(&s, deadline, WAIT_SLEEP) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *door_set_on_m_start(PyObject *Py_UNUSED(module), PyObject *fn) {
    Py_XSETREF(on_m_start, fn == Py_None ? NULL : Py_NewRef(fn));
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"gosched", door_gosched, METH_NOARGS,
     "gosched()\n--\n\nLet other G's run; return when it is this G's turn again."},
    {"sleep", door_sleep, METH_O,
     "sleep(seconds, /)\n--\n\nPark this G for so many seconds (float). 0 only yields.\n\n"
     "Raises Cancelled if the G is cancelled meanwhile. A plain thread just sleeps."},
    {"set_on_m_start", door_set_on_m_start, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int pym_init(PyObject *module) {
    PyGreenlet_Import();
    if (!_PyGreenlet_API) return -1;
    return PyModule_AddFunctions(module, methods);
}
