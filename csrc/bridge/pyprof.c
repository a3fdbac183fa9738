/* pyprof.c: samples for profiles (gmpy_rt/pprof.py).
 *
 * cpu         every so often, each M whose thread runs, be it Python or C code that let go of
 *             the interpreter: its stack, weighed with the CPU time that the thread has used
 *             since it was last met. So a sleeping M isn't CPU time, and the sum is true.
 * starvation  the same ticks, but an M's stack is charged with the g's that it keeps waiting.
 * goroutine   every g's stack, once.
 * block       noted by the g itself when a park ends: its own frames.
 * mutex       noted by who releases a lock that others wait for.
 *
 * Another thread's frames are read while the world stands still, and only if there is
 * something to note; only the stacks wanted are read. The thread that samples needs no P. */
#include "stack.h"

#include <fcntl.h>
#include <unistd.h>

#include "../gsync.h"

/* What seems to resume for longer than that does block: it detached right after it went on. */
static const int64_t RESUME_MAX = 100 * MILLISECOND;

enum {
    MAX_BUCKETS = 16384,
    PAUSE_SHARE = 20, /* stacks are read during 1/20 of the time at most */
};

_Atomic int64_t prof_block_rate;
_Atomic uint32_t prof_mutex_fraction;
static stacktab block_tab = {.max = MAX_BUCKETS}, mutex_tab = {.max = MAX_BUCKETS};

enum kind { KIND_CPU, KIND_STARVATION };

typedef struct {
    PyObject_HEAD
    enum kind kind;
    stacktab tab;
    note note;
    _Atomic bool stopped;
    mutex lock;      /* of choosing: the last tick comes from another thread */
    bool over;       /* it has been */
    uint32_t serial; /* of this profile; 0: no tick yet */
    int64_t last;    /* the tick before */
    uint64_t ticks, pauses;
    int64_t pause_ns, pause_max, pause_last;
} PyProfile;

/* An M whose stack is wanted, and what it is charged with. */
typedef struct {
    m *mp;
    g *gp; /* what it ran when it was chosen, */
    uint64_t id;
    double count, value;
    bool has_stack; /* else the labels say it all */
    labels l;
    stack s;
} target;

static uint64_t random_bits(void) {
    static _Thread_local uint64_t state;
    if (!state) state = (uint64_t)nanotime() ^ (uintptr_t)&state;
    return (uint64_t)rand_next(&state) << 32 | rand_next(&state);
}

/* ---------------------------------------------------------------- cpu */

static int64_t cpu_clock(m *mp) {
    clockid_t clock;
    struct timespec ts;
    if (pthread_getcpuclockid(mp->thread, &clock) || clock_gettime(clock, &ts)) return -1;
    return (int64_t)ts.tv_sec * SECOND + ts.tv_nsec;
}

/* The kernel's view of a thread: R if it runs or waits for a CPU. */
static bool is_runnable(unsigned long tid) {
    char path[64], text[96];
    snprintf(path, sizeof path, "/proc/self/task/%lu/stat", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    char *name_end = strrchr(text, ')'); /* "tid (name) R ..." */
    return name_end && name_end[1] == ' ' && name_end[2] == 'R';
}

/* Attached says it where there is no GIL, and costs nothing. (CPU clocks of threads on other
 * CPUs may move only with the kernel's tick: two looks at one don't tell.) */
static bool is_on_cpu(mhost *h) {
    if (py_thread_state(h->mp) == HOST_RUNNING) return true;
    mutex_lock(&h->lock);
    unsigned long tid = h->tstate ? h->tstate->native_thread_id : 0;
    mutex_unlock(&h->lock);
    return tid && is_runnable(tid);
}

static mhost *host_of(uint32_t i) {
    m *mp = load_acquire(&S.allm[i]);
    return mp ? load_acquire(&mp->host) : NULL;
}

static int32_t p_id(m *mp) {
    p *pp = load_acquire(&mp->p);
    return pp ? (int32_t)pp->id : -1;
}

static target *aim(target *t, m *mp, double count, double value, const char *state) {
    *t = (target){.mp = mp, .count = count, .value = value};
    t->gp = mp ? load_acquire(&mp->cur) : NULL;
    t->id = t->gp ? t->gp->id : 0;
    t->l = (labels){.state = state, .m = mp ? (int32_t)mp->id : -1, .p = mp ? p_id(mp) : -1};
    return t;
}

/* The CPU profile that is being taken, borrowed: prof_run_ends tells it. */
static mutex current_lock;
static PyProfile *current;

static void become_current(PyProfile *self) {
    static _Atomic uint32_t serials;
    self->serial = atomic_fetch_add(&serials, 1) + 1;
    mutex_lock(&current_lock);
    current = self;
    mutex_unlock(&current_lock);
}

/* What was used before the first tick is nobody's here; of an M that was made later, all is. */
static void first_tick(PyProfile *self, uint32_t nm) {
    become_current(self);
    for (uint32_t i = 0; i < nm; i++) {
        mhost *h = host_of(i);
        if (!h) continue;
        h->prof_cpu = cpu_clock(h->mp);
        h->prof_serial = self->serial;
    }
}

static uint32_t pick_on_cpu(PyProfile *self, target *to, uint32_t nm) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < nm; i++) {
        mhost *h = host_of(i);
        if (!h) continue;
        bool core = load_acquire(&h->mp->hold) == HOLD_CORE;
        if ((core && !load_acquire(&h->mp->p)) || !is_on_cpu(h)) continue;
        int64_t now = cpu_clock(h->mp);
        int64_t used = now - (h->prof_serial == self->serial ? h->prof_cpu : 0);
        if (now < 0 || used <= 0) continue;
        h->prof_serial = self->serial;
        h->prof_cpu = now;
        aim(&to[n++], h->mp, 1, (double)used, core ? "scheduler" : "running")->has_stack = !core;
    }
    return n;
}

/* At the end of the profile or of the run: what M's used since a tick last found them on a CPU. */
static uint32_t pick_rest(PyProfile *self, target *to, uint32_t nm) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < nm; i++) {
        mhost *h = host_of(i);
        int64_t now = h ? cpu_clock(h->mp) : -1;
        int64_t used = h ? now - (h->prof_serial == self->serial ? h->prof_cpu : 0) : 0;
        if (now < 0 || used <= 0) continue;
        h->prof_serial = self->serial;
        h->prof_cpu = now;
        aim(&to[n++], h->mp, 0, (double)used, "between samples");
    }
    return n;
}

/* ---------------------------------------------------------------- starvation
 *
 * Who keeps a runnable g from running at this moment?
 *   in an M's boundq    the g that this M runs, or blocks in ("blocked": it lost its P)
 *   in a P's runq       the g that runs there
 *   waiting for any P   (global queue; started g's of an M without a P) all that hold a P, in
 *                       equal parts
 * Each waiting g charges them with the time since the last tick. */
static uint32_t pick_hogs(target *to, uint32_t nm, int64_t dt) {
    uint32_t n = 0, holders = 0, want_p = 0, shared = 0;
    for (uint32_t i = 0; i < nm; i++) {
        mhost *h = host_of(i);
        if (!h) continue;
        m *mp = h->mp;
        uint32_t hold = load_acquire(&mp->hold), bound = boundq_len(&mp->bound);
        p *pp = load_acquire(&mp->p);
        if (pp) {
            target *t = aim(&to[n++], mp, bound + runq_len(&pp->runq), 0, "running");
            t->has_stack = hold != HOLD_CORE;
            if (!t->has_stack) t->l.state = "scheduler";
            holders++;
        } else if (bound && hold == HOLD_CORE) {
            shared += bound;
            want_p++;
        } else if (bound)
            aim(&to[n++], mp, bound, 0, "blocked")->has_stack = true;
    }
    /* Who wants a P has a token in the global queue. */
    uint32_t global = globq_len(&S.globq);
    shared += global > want_p ? global - want_p : 0;
    for (uint32_t i = 0; i < load_relaxed(&S.maxp); i++) {
        p *pp = load_acquire(&S.allp[i]);
        if (pp && !load_acquire(&pp->m)) shared += runq_len(&pp->runq);
    }
    if (shared && !holders) aim(&to[n++], NULL, shared, 0, "waking");
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        target *t = &to[i];
        if (t->l.p >= 0 && holders) t->count += (double)shared / holders;
        t->value = t->count * (double)dt;
        if (t->count > 0) to[kept++] = *t;
    }
    return kept;
}

/* ---------------------------------------------------------------- a tick */

static PyObject *name_of(PyG *self) {
    PyObject *fn = self->fn;
    if (self->name || !fn) return Py_XNewRef(self->name);
    if (PyMethod_Check(fn)) fn = PyMethod_GET_FUNCTION(fn);
    return Py_NewRef(PyFunction_Check(fn) ? PyFunction_GET_CODE(fn) : (PyObject *)Py_TYPE(fn));
}

/* The G that ran when the M was chosen may have parked since: then that is where it was going.
 * If it has ended, the M's present stack has to do. */
static void note_stack(target *t) {
    mhost *h = load_acquire(&t->mp->host);
    PyG *self = t->gp ? t->gp->host : NULL;
    if (self && t->gp->id == t->id) {
        stack_of_g(&t->s, t->gp);
        t->l.g = t->id;
        t->l.name = name_of(self);
    }
    if (!t->s.n && h && h->tstate) stack_of_thread(&t->s, h->tstate);
}

/* Let go, a thread is detached until it has a CPU again. For sysmon that would look as if it
 * blocked: under load a hog lost its P by being looked at. Between sched_look and its end. */
static void pause_begin(void) {
    for (uint32_t i = 0; i < load_seq(&S.nm) && i < MAX_M; i++) {
        mhost *h = host_of(i);
        if (h) h->prof_attached = py_thread_state(h->mp) == HOST_RUNNING;
    }
    world_stop();
}

static void pause_end(void) {
    int64_t until = nanotime() + RESUME_MAX;
    for (uint32_t i = 0; i < load_seq(&S.nm) && i < MAX_M; i++) {
        mhost *h = host_of(i);
        if (h && h->prof_attached) store_relaxed(&h->resuming, until);
    }
    world_start();
}

static void note_pause(PyProfile *self, int64_t pause) {
    mutex_lock(&self->lock);
    self->pauses++;
    self->pause_ns += pause;
    self->pause_last = pause;
    if (pause > self->pause_max) self->pause_max = pause;
    mutex_unlock(&self->lock);
}

static void note_stacks(PyProfile *self, target *all, uint32_t n) {
    uint32_t wanted = 0;
    for (uint32_t i = 0; i < n; i++) wanted += all[i].has_stack;
    if (!wanted) return;
    int64_t begin = nanotime();
    pause_begin();
    for (uint32_t i = 0; i < n; i++)
        if (all[i].has_stack) note_stack(&all[i]);
    pause_end();
    note_pause(self, nanotime() - begin);
}

static void keep(PyProfile *self, target *all, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        stacktab_add(&self->tab, &all[i].l, &all[i].s, all[i].count, all[i].value);
        stack_drop(&all[i].s);
        Py_XDECREF(all[i].l.name);
    }
}

enum tick { TICK, RUN_ENDS, LAST };

static uint32_t pick(PyProfile *self, target *all, uint32_t nm, enum tick what) {
    int64_t now = nanotime(), dt = self->last ? now - self->last : 0;
    self->last = now;
    self->ticks++;
    if (self->kind == KIND_STARVATION) return dt ? pick_hogs(all, nm, dt) : 0;
    if (what != TICK) return pick_rest(self, all, nm);
    if (self->serial) return pick_on_cpu(self, all, nm);
    first_tick(self, nm);
    return 0;
}

typedef struct {
    bool open, no_memory; /* open: between sched_look and sched_look_end */
    uint32_t n;
    target *all;
} sample;

static sample choose(PyProfile *self, enum tick what) {
    sample s = {.open = sched_look()};
    if (!s.open) { /* no runtime yet: what its M's will use is all of the profile */
        if (self->kind == KIND_CPU && !self->serial && what == TICK) become_current(self);
        return s;
    }
    uint32_t nm = load_seq(&S.nm) < MAX_M ? load_seq(&S.nm) : MAX_M;
    s.all = malloc((nm + 1) * sizeof *s.all);
    s.no_memory = !s.all;
    mutex_lock(&self->lock);
    if (s.all && !self->over) s.n = pick(self, s.all, nm, what);
    self->over |= what == LAST;
    mutex_unlock(&self->lock);
    return s;
}

static PyObject *finish(PyProfile *self, sample *s, bool go_on) {
    note_stacks(self, s->all, s->n);
    if (s->open) sched_look_end();
    keep(self, s->all, s->n);
    free(s->all);
    return s->no_memory ? PyErr_NoMemory() : PyBool_FromLong(go_on);
}

/* tick(seconds) -> whether to go on. The wait is here, because with the GIL only a thread that
 * isn't us can be seen to run. It is longer if the last pause was long, as on a machine with
 * too little CPU. */
static PyObject *profile_tick(PyProfile *self, PyObject *arg) {
    double seconds = PyFloat_AsDouble(arg);
    if (seconds == -1.0 && PyErr_Occurred()) return NULL;
    sample s = {.open = false};
    bool go_on;
    Py_BEGIN_ALLOW_THREADS
    int64_t wait = (int64_t)(seconds * 1e9), least = PAUSE_SHARE * self->pause_last;
    if (seconds > 0 && !load_acquire(&self->stopped))
        note_sleep(&self->note, nanotime() + (wait > least ? wait : least));
    go_on = !load_acquire(&self->stopped);
    if (go_on) s = choose(self, TICK);
    Py_END_ALLOW_THREADS
    return finish(self, &s, go_on);
}

static void forget(PyProfile *self) {
    mutex_lock(&current_lock);
    if (current == self) current = NULL;
    mutex_unlock(&current_lock);
}

/* Before the M's go, and their clocks with them. */
void prof_run_ends(void) {
    mutex_lock(&current_lock);
    PyProfile *self = (PyProfile *)Py_XNewRef((PyObject *)current);
    mutex_unlock(&current_lock);
    if (!self) return;
    sample s = choose(self, RUN_ENDS);
    PyObject *r = finish(self, &s, true);
    if (!r) PyErr_Clear();
    Py_XDECREF(r);
    Py_DECREF((PyObject *)self);
}

/* The last tick is the caller's own: what has gone on until now is charged before it goes on. */
static PyObject *profile_stop(PyProfile *self, PyObject *Py_UNUSED(unused)) {
    sample s = choose(self, LAST);
    forget(self);
    store_release(&self->stopped, true);
    note_wake(&self->note);
    return finish(self, &s, false);
}

/* ---------------------------------------------------------------- goroutine */

static void look_at(g *gp, PyG *self, target *t) {
    m *mp = load_acquire(&gp->m);
    uint32_t hold = mp ? load_acquire(&mp->hold) : HOLD_CORE;
    *t = (target){.count = 1, .l = {.m = mp ? (int32_t)mp->id : -1, .p = -1}};
    stack_of_g(&t->s, gp);
    switch (g_status(gp)) {
    case G_RUNNABLE: t->l.state = hold == HOLD_TAKEN ? "stranded" : "runnable"; break;
    case G_WAITING: t->l.state = wait_reasons[load_relaxed(&gp->reason) % WAIT_REASONS]; break;
    default: t->l.state = hold == HOLD_TAKEN ? "blocked" : "running"; break;
    }
    PyObject *fn = self->fn; /* it hasn't started: the beginning of its function */
    if (t->s.n || mp || !fn) return;
    if (PyMethod_Check(fn)) fn = PyMethod_GET_FUNCTION(fn);
    if (!PyFunction_Check(fn)) return;
    t->s.code[0] = Py_NewRef(PyFunction_GET_CODE(fn));
    t->s.lasti[0] = -1;
    t->s.n = 1;
}

/* goroutines() -> how many there are: adds every G that hasn't ended. */
static PyObject *profile_goroutines(PyProfile *self, PyObject *Py_UNUSED(unused)) {
    if (!sched_look()) return PyLong_FromLong(0);
    uint64_t max = sched_live() + 1024;
    target *all = malloc(max * sizeof *all);
    if (!all) {
        sched_look_end();
        return PyErr_NoMemory();
    }
    uint32_t n = 0, over = 0;
    int64_t begin = nanotime();
    pause_begin();
    for (uint32_t i = 0, slots = g_slots(); i < slots; i++) {
        g *gp = g_at(i);
        PyG *of = gp->host;
        if (g_status(gp) == G_IDLE || !of) continue;
        if (n < max)
            look_at(gp, of, &all[n++]);
        else
            over++;
    }
    pause_end();
    sched_look_end();
    note_pause(self, nanotime() - begin);
    keep(self, all, n);
    self->tab.dropped += over;
    free(all);
    return PyLong_FromUnsignedLong(n + over);
}

/* ---------------------------------------------------------------- block, mutex */

static void add_own_stack(stacktab *t, const char *state, double count, double value) {
    stack s;
    labels l = {.state = state, .m = -1, .p = -1};
    stack_of_thread(&s, PyThreadState_Get());
    stacktab_add(t, &l, &s, count, value);
    stack_drop(&s);
}

/* From when it parked until somebody made it runnable: how long it then waited for its turn
 * is no blocking. Waits shorter than the rate are taken by chance and count for those that
 * weren't (after Go's runtime/mprof.go, saveBlockEventStack). */
void prof_blocked_slow(g *gp, uint8_t reason) {
    int64_t rate = load_relaxed(&prof_block_rate);
    int64_t ns = load_relaxed(&gp->ready_at) - gp->wait_since;
    double count = 1, value;
    if (ns < 1) ns = 1;
    value = (double)ns;
    if (rate < 1 || (ns < rate && (int64_t)(random_bits() % (uint64_t)rate) > ns)) return;
    if (ns < rate) {
        count = (double)rate / (double)ns;
        value = (double)rate;
    }
    add_own_stack(&block_tab, wait_reasons[reason % WAIT_REASONS], count, value);
}

bool prof_mutex_sampled(void) {
    uint32_t fraction = load_relaxed(&prof_mutex_fraction);
    return fraction && random_bits() % fraction == 0;
}

void prof_contended(int64_t ns) {
    uint32_t fraction = load_relaxed(&prof_mutex_fraction);
    if (fraction && ns > 0) add_own_stack(&mutex_tab, NULL, fraction, (double)ns * fraction);
}

/* How long others have waited for l while its holder had it, which took it at held_since (0:
 * unknown). Of more waiters than one wants to look at, the rest count as the average. */
int64_t prof_contention(glock *l, int64_t held_since) {
    enum { LOOK = 64 };
    int64_t total = 0, now = nanotime();
    uint32_t n = 0;
    if (!load_relaxed(&l->nwaiters) || !prof_mutex_sampled()) return 0;
    mutex_lock(&l->lock);
    for (waiter *w = l->waiters.first; w && n < LOOK; w = w->next, n++) {
        int64_t since = w->since > held_since ? w->since : held_since;
        if (now > since) total += now - since;
    }
    uint32_t all = load_relaxed(&l->nwaiters);
    mutex_unlock(&l->lock);
    return n && all > n ? (int64_t)((double)total / n * all) : total;
}

/* ---------------------------------------------------------------- module */

static PyObject *read_tab(stacktab *t) {
    PyObject *list = stacktab_read(t);
    return list ? Py_BuildValue("(Ndd)", list, t->dropped, t->dropped_value) : NULL;
}

static PyObject *profile_read(PyProfile *self, PyObject *Py_UNUSED(unused)) { return read_tab(&self->tab); }

static PyObject *profile_pauses(PyProfile *self, PyObject *Py_UNUSED(unused)) {
    return Py_BuildValue("(KKdd)", (unsigned long long)self->ticks, (unsigned long long)self->pauses,
                         (double)self->pause_ns / 1e9, (double)self->pause_max / 1e9);
}

static PyObject *profile_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"kind", "max_buckets", NULL};
    const char *kind;
    unsigned max = MAX_BUCKETS;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|I:Profile", names, &kind, &max)) return NULL;
    PyProfile *self = (PyProfile *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->kind = strcmp(kind, "starvation") == 0 ? KIND_STARVATION : KIND_CPU;
    self->tab.max = max;
    return (PyObject *)self;
}

static void profile_dealloc(PyProfile *self) {
    PyTypeObject *type = Py_TYPE(self);
    forget(self);
    stacktab_fini(&self->tab);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef profile_methods[] = {
    {"tick", (PyCFunction)profile_tick, METH_O,
     "tick(seconds, /)\n--\n\nWait so long or until stop(), then take a sample; return whether to go on."},
    {"stop", (PyCFunction)profile_stop, METH_NOARGS,
     "stop()\n--\n\nTake the last sample; whoever waits in tick() returns."},
    {"goroutines", (PyCFunction)profile_goroutines, METH_NOARGS,
     "goroutines()\n--\n\nAdd every G that hasn't ended; return how many."},
    {"read", (PyCFunction)profile_read, METH_NOARGS,
     "read()\n--\n\n(buckets, samples dropped, their value); a bucket is (state, name, g, m, p, count, "
     "value, ((code, line), ...)), innermost frame first."},
    {"pauses", (PyCFunction)profile_pauses, METH_NOARGS,
     "pauses()\n--\n\n(ticks, stops of the world, their seconds in all, the longest)."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot profile_slots[] = {
    {Py_tp_new, profile_new},
    {Py_tp_dealloc, profile_dealloc},
    {Py_tp_methods, profile_methods},
    {Py_tp_doc, "Profile(kind, max_buckets=16384)\n--\n\nSamples of one kind, 'cpu' or 'starvation'."},
    {0, NULL},
};
static PyType_Spec profile_spec = {
    .name = "gmpy_rt._door.Profile",
    .basicsize = sizeof(PyProfile),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = profile_slots,
};

static PyObject *door_block_rate(PyObject *Py_UNUSED(module), PyObject *arg) {
    long long rate = PyLong_AsLongLong(arg);
    if (rate == -1 && PyErr_Occurred()) return NULL;
    return PyLong_FromLongLong(rate < 0 ? load_relaxed(&prof_block_rate)
                                        : atomic_exchange(&prof_block_rate, rate));
}

static PyObject *door_mutex_fraction(PyObject *Py_UNUSED(module), PyObject *arg) {
    long n = PyLong_AsLong(arg);
    if (n == -1 && PyErr_Occurred()) return NULL;
    if (n > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "n=%ld: one of n cases is noted, so give 1 for all, 0 for none", n);
        return NULL;
    }
    return PyLong_FromUnsignedLong(n < 0 ? load_relaxed(&prof_mutex_fraction)
                                         : atomic_exchange(&prof_mutex_fraction, (uint32_t)n));
}

static PyObject *door_block_read(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    return read_tab(&block_tab);
}

static PyObject *door_mutex_read(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    return read_tab(&mutex_tab);
}

/* In a forked child: what another thread was in the middle of stays so; begin anew. */
static PyObject *door_prof_forked(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    store_relaxed(&prof_block_rate, 0);
    store_relaxed(&prof_mutex_fraction, 0);
    block_tab = mutex_tab = (stacktab){.max = MAX_BUCKETS};
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"prof_block_rate", door_block_rate, METH_O, NULL},
    {"prof_mutex_fraction", door_mutex_fraction, METH_O, NULL},
    {"prof_block", door_block_read, METH_NOARGS, NULL},
    {"prof_mutex", door_mutex_read, METH_NOARGS, NULL},
    {"prof_forked", door_prof_forked, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int pyprof_init(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &profile_spec, NULL);
    if (!type || PyModule_AddObjectRef(module, "Profile", type) < 0) return -1;
    Py_DECREF(type);
    return PyModule_AddFunctions(module, methods);
}
