/* bridge: the only C that knows Python. It runs the core's g's as greenlets and gives
 * Python the fast door: builtins that park and switch in one call.
 *
 * A worker greenlet runs a fresh G and asks for the next when that ends; if it is a fresh
 * one again it runs it in place, without a switch. A parking G switches straight to the
 * next one. New workers are made by the hub (the thread's main greenlet) only, so that
 * every worker's machine stack begins at the same depth. */
#ifndef GMPY_BRIDGE_H
#define GMPY_BRIDGE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#ifndef Py_BEGIN_CRITICAL_SECTION /* before 3.13: the GIL does it */
#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }
#endif

#include "../chan.h"
#include "../scheduler.h"

/* The G object. `gp` is its slot in the core's slab until the object dies. */
typedef struct PyG {
    PyObject_HEAD
    PyObject *weakrefs;
    g *gp;
    PyObject *fn, *args, *kwargs; /* until it ran */
    PyObject *context;            /* its contextvars */
    PyObject *name;
    PyObject *result, *exc; /* one of them once done */
    PyObject *greenlet;     /* the greenlet it is parked in */
    PyObject *worker;       /* the worker greenlet that runs it (borrowed: it holds itself) */
    void *root;             /* first chunk of the worker's data stack */
    PyObject *interrupt;    /* exception to raise in its next park; under lock */
    bool interrupt_soft;    /* it is a Cancelled, which shields hold back */
    int32_t masked;         /* >0: nothing is raised now, see mask_interrupts */
    int32_t locks;          /* lock_os_thread() calls that it hasn't undone */
    struct PyScope *scopes; /* the timeouts and shields it is in, innermost first; under lock */
    PyObject *locals;       /* dict of per-G state, made on demand */
    mutex lock;
    _Atomic bool done;
    bool notify;     /* tell run() when it has ended: it is main */
    bool begins;     /* even if it was cancelled before: see go_anyway */
    bool seen;       /* somebody asked for the result or the exception */
    bool go_latency; /* what it starts is of the latency class */
    waitq joiners;
    struct PyGroup *group;               /* the TaskGroup it belongs to, until it has ended */
    struct PyG *group_next, *group_prev; /* there; under the group's lock */
    PyObject *made_in;                   /* code that called go(), */
    int made_at;                         /* and where in it */
    PyObject *waits_for;                 /* a lock or a G; borrowed, while it is parked there. For dumps */
} PyG;

/* What the bridge knows of an M: m->host. */
typedef struct mhost {
    m *mp;
    PyThreadState *tstate; /* NULL once the thread is about to end; under lock */
    mutex lock;            /* sysmon reads tstate under it */
    PyObject *hub;
    PyObject *idle;              /* list of idle worker greenlets */
    g *pending;                  /* the fresh g for the worker that is switched to */
    _Atomic uint32_t no_preempt; /* >0: its G's mustn't be preempted now */
    _Atomic(g *) monitor_for;    /* with monitoring: the g that sysmon asked to yield */
    _Atomic bool preempt_late;   /* asked to yield while no_preempt: do it once that is over */
    g *raise_in;                 /* the g that is to be interrupted at a check soon; see preempt.c */
    void *refused_in;            /* the frame in which it was refused the last time, and where: preempt.c */
    int refused_at, refused_hurry;
    int raise_tries;          /* how often it may still try, before the M yields to others */
    bool asked_myself;        /* the request to yield that is pending is such a one */
    int64_t prof_cpu;         /* pyprof.c: the CPU time that is accounted for, */
    uint32_t prof_serial;     /* and in which profile */
    bool prof_attached;       /* before the world was stopped; if so, until `resuming` at most it may */
    _Atomic int64_t resuming; /* seem detached, as it waits for a CPU: that is no blocking call */
} mhost;

/* ---- who is calling */
static inline g *current_g(void) {
    m *mp = sched_self;
    return mp ? load_relaxed(&mp->cur) : NULL;
}
static inline PyG *host_g(g *gp) { return (PyG *)gp->host; }

/* A place to wait: the G's own, or the plain thread's. */
typedef struct seat {
    g *g;
    parker *parker;
    waiter *waiter;
} seat;

/* Fills in who waits. Raises RuntimeError where nobody can (a finalizer between two G's). */
int seat_take(seat *s);

/* Raises exc, a signal's, in the plain thread that calls, once it is back in Python. Steals exc. */
void raise_later(PyObject *exc);

/* For dumps: what the G is about to park for; NULL: nothing any more. */
static inline void waits_for(seat *s, PyObject *what) {
    if (s->g) __atomic_store_n(&host_g(s->g)->waits_for, what, __ATOMIC_RELEASE);
}

/* ---- parking (pym.c). timeouts are in seconds; None waits for ever.
 *
 * Frames on the way to a park are small. greenlet copies the C stack between a G's start and
 * its park away and back with every switch, 1.7 KB of it the interpreter's and greenlet's own.
 * From 2,112 bytes on, memcpy uses `rep movsb` on processors with FSRM, and a select that parks
 * took nearly twice as long (measured, 3.14.7t, EPYC). So what comes before and after a switch is
 * out_of_line, big things are on the heap, and no usual way to a park adds more than a quarter of that
 * (tests/test_depth.py). */
enum { PARK_ERROR = -1 };
/* Sleeps until the wait that was begun on s ends: an enum wake_reason. PARK_ERROR with an
 * exception set when it was interrupted (Cancelled, KeyboardInterrupt): the caller then
 * takes its waiter out, as after a timeout. deadline 0: none. */
int park(seat *s, int64_t deadline, uint8_t reason);
int park_g(g *gp, int64_t deadline, uint8_t reason); /* the same for gp, which runs */
/* Lets the others of this M run. -1 with an exception set if interrupted. */
int yield_now(bool preempted);
/* by 1: self, which runs, keeps fresh G's off its M, until by -1. */
void lock_m(m *mp, PyG *self, int32_t by);
/* Python object -> deadline; 0 for None. -1 with an exception set. -2: no wait (<= 0). */
int64_t deadline_from(PyObject *timeout);
int seconds_from(PyObject *timeout, double *s); /* no None. -1 with an exception set */

extern const char *const wait_reasons[WAIT_REASONS]; /* names, pylook.c */

/* ---- modules of the bridge */
int pym_init(PyObject *module);
void py_m_main(m *mp);
void py_detach(m *mp);
void py_attach(m *mp);

/* ---- interrupts (pyscope.c) */
/* Steals nothing. Whether an earlier one hadn't been raised yet; it won't be any more. -1: self has
 * ended. */
int interrupt_g(PyG *self, PyObject *exc);
/* What is to be raised now in self, which runs: new reference, an instance or a class; NULL:
 * nothing, or an exception is set. */
PyObject *take_interrupt(PyG *self);
int raise_interrupt(PyG *self); /* raises it: PARK_ERROR */
/* by 1: what interrupts self, which runs, waits until by -1. */
void mask_interrupts(PyG *self, int by);
void scopes_end(PyG *self); /* self ends: leaves what it is still in */
int pyscope_init(PyObject *module);

extern PyTypeObject *G_Type;
int pyg_init(PyObject *module);
int pylook_init(PyObject *module);
extern PyGetSetDef g_getset[];
PyObject *g_repr(PyG *self);
PyObject *take_exception(void); /* the current one, normalized; none is set then */
void pyg_run(m *mp, g *gp);     /* runs a fresh G to its end */
int pychan_init(PyObject *module);
int pysync_init(PyObject *module);
int pywait_init(PyObject *module);
/* TaskGroup (pygroup.c). */
int group_enter(struct PyGroup *group, PyG *child); /* -1 with an exception set */
void group_child_ended(PyG *child);
PyObject *go_in_group(struct PyGroup *group, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
int pygroup_init(PyObject *module);
int pydump_init(PyObject *module);
/* A list of what item(all, i) returns for i < n. Called for each i, even if one failed, as it
 * gives back what all[i] holds; then the list is NULL. */
PyObject *list_from(void *all, uint32_t n, PyObject *(*item)(void *all, uint32_t i));
/* Traces (pytrace.c): only while one is on. */
uint32_t trace_name_of(PyObject *fn);          /* the number of its name */
void trace_renamed(PyG *self, PyObject *name); /* self has another name now */
int pytrace_init(PyObject *module);
int pypoll_init(PyObject *module);
int preempt_init(PyObject *module);
/* At the safe point that sysmon asked for: yields, or sees to an interrupt. */
int preempt_yield(void);
int script_install(char *path, size_t size); /* the path to ask with. -1 with an exception set */
enum host_state py_thread_state(m *mp);
bool py_preempt(m *mp);
/* gp stops running: what it was to be interrupted with, its next park raises. */
void no_raise_slow(mhost *h);
static inline void no_raise(mhost *h, g *gp) {
    if (unlikely(h->raise_in == gp)) no_raise_slow(h);
}

extern PyObject *Cancelled, *ChanClosed, *DeadlockError;

/* ---- profiles (pyprof.c). Off: one relaxed load. */
struct glock;
extern _Atomic int64_t prof_block_rate;
extern _Atomic uint32_t prof_mutex_fraction;
void prof_blocked_slow(g *gp, uint8_t reason);
/* gp, which runs, is back from a park. */
static inline void prof_blocked(g *gp, uint8_t reason) {
    if (unlikely(load_relaxed(&prof_block_rate))) prof_blocked_slow(gp, reason);
}
/* 0 while the mutex profile is off. */
static inline int64_t prof_mutex_time(void) {
    return unlikely(load_relaxed(&prof_mutex_fraction)) ? nanotime() : 0;
}
/* How long w, which is woken now, has waited for a lock: w->since is a prof_mutex_time. */
static inline int64_t prof_waited(const waiter *w) {
    return likely(!w->since) ? 0 : prof_mutex_time() ? nanotime() - w->since : 0;
}
bool prof_mutex_sampled(void);
int64_t prof_contention(struct glock *l, int64_t held_since);
void prof_contended(int64_t ns); /* the caller made others wait that long */
void prof_run_ends(void);        /* the M's are about to end */
int pyprof_init(PyObject *module);

/* Anchor for the collector of free-threaded 3.14 (anchor.c). */
int anchor_init(PyObject *module);
static inline void anchor_note(g *gp, PyThreadState *ts) {
#if defined(Py_GIL_DISABLED)
    gp->frame = ts->current_frame;
#else
    (void)gp;
    (void)ts;
#endif
}

int arena_install(void);
void stack_root(PyThreadState *ts); /* gives a new greenlet its first stack chunk */

#endif
