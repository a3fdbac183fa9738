/* trace.c: rings, the drainer, start and stop. The protocol stands in trace.h. */
#include "trace.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "idle.h"

static const int64_t DRAIN_EVERY = 5 * MILLISECOND;
static const int64_t QUIESCE_PATIENCE = 1 * SECOND;

_Atomic bool trace_on;
_Thread_local uint16_t trace_thread = TRACE_NONE;
static _Thread_local uint64_t thread_id;

/* size is what `limit` allows; the rest of the slots isn't touched then. Rings are made when
 * they are needed and stay: who writes one may be late, never wrong. */
typedef struct trace_ring {
    alignas(CACHE_LINE) _Atomic uint64_t head;
    _Atomic uint64_t lost; /* written by the writer */
    uint64_t told;         /* writer: how many of the lost ones the ring tells of */
    uint64_t seen_tail;    /* writer: tail when it last looked */
    alignas(CACHE_LINE) _Atomic uint64_t tail;
    trace_rec slot[TRACE_RING];
} trace_ring;

#define X(name) +1
enum { COUNTERS = P_COUNTERS(X), SNAPSHOTS = 4, RINGS = MAX_P + 1, SHARED = MAX_P };
#undef X

static struct {
    pthread_mutex_t control; /* start, stop, end of a runtime; held for long */
    bool active;
    int fd;
    _Atomic uint32_t size;
    _Atomic(trace_ring *) ring[RINGS];
    mutex shared_lock;        /* leaf: writers of ring[SHARED] */
    _Atomic uint64_t no_ring; /* events lost because memory is short */
    pthread_t drainer;
    _Atomic bool stopping;
    note note;
    trace_sum sum;            /* drainer's; after it has ended, trace_stop's */
    uint64_t ended[COUNTERS]; /* counters of runtimes that ended during this trace */
    uint64_t counts[SNAPSHOTS][COUNTERS];
} T = {.control = PTHREAD_MUTEX_INITIALIZER};

/* ---------------------------------------------------------------- writing */

static uint64_t my_thread(void) {
    if (!thread_id) thread_id = TRACE_THREAD | (uint64_t)syscall(SYS_gettid);
    return thread_id;
}

/* Host code: the g that runs there. Inside the core, an M works for nobody in particular; go()
 * is the exception. */
uint64_t trace_who(void) {
    m *mp = sched_self;
    if (!mp) return trace_thread == TRACE_NONE ? my_thread() : 0;
    g *gp = load_relaxed(&mp->hold) == HOLD_CORE ? NULL : load_relaxed(&mp->cur);
    return gp ? gp->id : 0;
}

/* Its writer makes a ring the first time. */
static trace_ring *my_ring(uint32_t i) {
    trace_ring *r = load_relaxed(&T.ring[i]);
    if (likely(r)) return r;
    r = aligned_alloc(CACHE_LINE, sizeof *r);
    if (!r) {
        atomic_fetch_add(&T.no_ring, 1);
        return NULL;
    }
    memset(r, 0, offsetof(trace_ring, slot)); /* the slots as they are used */
    store_release(&T.ring[i], r);
    return r;
}

static void put(trace_ring *r, const trace_rec *e) {
    uint64_t head = load_relaxed(&r->head), size = load_relaxed(&T.size);
    if (unlikely(head - r->seen_tail >= size / 2)) {
        r->seen_tail = load_acquire(&r->tail);
        if (head - r->seen_tail >= size / 2 && head % 64 == 0) note_wake(&T.note);
        if (head - r->seen_tail + 2 > size) { /* two: the LOST record as well */
            if (load_relaxed(&r->lost) == r->told) note_wake(&T.note);
            count_add(&r->lost, 1);
            return;
        }
    }
    uint64_t lost = load_relaxed(&r->lost);
    if (unlikely(lost != r->told)) {
        r->slot[head++ % TRACE_RING] =
            (trace_rec){.when = e->when, .arg = lost - r->told, .p = e->p, .m = e->m, .type = TRACE_LOST};
        r->told = lost;
    }
    r->slot[head % TRACE_RING] = *e;
    store_release(&r->head, head + 1);
}

static void put_shared(trace_rec *e) {
    mutex_lock(&T.shared_lock);
    /* The time once it is its turn: each ring is in order. And the flag once more: after
     * quiesce, nobody comes any more. */
    trace_ring *r = load_seq(&trace_on) ? my_ring(SHARED) : NULL;
    if (r) {
        e->when = nanotime();
        put(r, e);
    }
    mutex_unlock(&T.shared_lock);
}

static void put_p(p *pp, trace_rec *e) {
    /* The flag once more: as in put_shared; and acquire, for what trace_start wrote to the ring. */
    trace_ring *r = load_seq(&trace_on) ? my_ring(pp->id) : NULL;
    e->p = (uint16_t)pp->id;
    if (!e->when) e->when = nanotime();
    if (r) put(r, e);
}

void trace_emit(enum trace_type type, uint64_t gid, uint16_t seq, uint64_t arg, int64_t when) {
    m *mp = sched_self;
    trace_rec e = {.when = when,
                   .g = gid,
                   .arg = arg,
                   .seq = seq,
                   .p = TRACE_NONE,
                   .m = mp ? (uint16_t)mp->id : trace_thread,
                   .type = (uint8_t)type};
    uint32_t hold = mp ? load_relaxed(&mp->hold) : HOLD_TAKEN;
    if (hold == HOLD_CORE) {
        p *pp = load_relaxed(&mp->p);
        if (pp)
            put_p(pp, &e);
        else
            put_shared(&e);
        return;
    }
    if (hold != HOLD_TAKEN && atomic_compare_exchange_strong(&mp->hold, &hold, HOLD_CORE)) {
        put_p(load_relaxed(&mp->p), &e);
        store_release(&mp->hold, hold);
        return;
    }
    put_shared(&e);
}

void trace_emit_owner(p *pp, m *mp, enum trace_type type, uint64_t gid, uint64_t arg) {
    trace_rec e = {.g = gid, .arg = arg, .m = (uint16_t)mp->id, .type = (uint8_t)type};
    put_p(pp, &e);
}

void trace_emit_about(p *pp, m *mp, enum trace_type type, uint64_t arg) {
    trace_rec e = {.arg = arg, .p = (uint16_t)pp->id, .m = (uint16_t)mp->id, .type = (uint8_t)type};
    put_shared(&e);
}

/* ---------------------------------------------------------------- to the file */

static void write_all(struct iovec *io, int n, uint64_t records) {
    while (n && !T.sum.error) {
        ssize_t w = writev(T.fd, io, n);
        if (w < 0) {
            if (errno != EINTR) T.sum.error = errno;
            continue;
        }
        for (; n && (size_t)w >= io->iov_len; io++, n--) w -= (ssize_t)io->iov_len;
        if (n) {
            io->iov_base = (char *)io->iov_base + w;
            io->iov_len -= (size_t)w;
        }
    }
    if (T.sum.error)
        T.sum.lost += records;
    else
        T.sum.events += records;
}

static void drain_ring(uint32_t i) {
    trace_ring *r = load_acquire(&T.ring[i]);
    if (!r) return;
    uint64_t tail = load_relaxed(&r->tail), head = load_acquire(&r->head), n = head - tail;
    if (!n) return;
    trace_rec chunk = {.arg = n, .p = i == SHARED ? TRACE_NONE : (uint16_t)i, .type = TRACE_CHUNK};
    uint64_t first = tail % TRACE_RING, part = TRACE_RING - first;
    if (part > n) part = n;
    struct iovec io[3] = {{&chunk, sizeof chunk},
                          {&r->slot[first], part * sizeof(trace_rec)},
                          {&r->slot[0], (n - part) * sizeof(trace_rec)}};
    write_all(io, 3, n);
    store_release(&r->tail, head);
}

static void drain(void) {
    for (uint32_t i = 0; i < RINGS; i++) drain_ring(i);
}

static void *drainer_main(void *arg) {
    cpu_set_t cpus; /* not the one CPU to which the M that starts the trace may be pinned */
    if (arg && sched_getaffinity(getpid(), sizeof cpus, &cpus) == 0) sched_setaffinity(0, sizeof cpus, &cpus);
    while (!load_acquire(&T.stopping)) {
        drain();
        note_sleep(&T.note, nanotime() + DRAIN_EVERY);
    }
    return NULL;
}

/* ---------------------------------------------------------------- start and stop */

static void add_counters(uint64_t *out) {
    mutex_lock(&S.lock); /* maxp may rise */
    for (uint32_t i = 0; i < S.maxp; i++) {
        p *pp = load_relaxed(&S.allp[i]);
        uint64_t *at = out;
#define X(name) *at++ += load_relaxed(&pp->stat.name);
        P_COUNTERS(X)
#undef X
    }
    mutex_unlock(&S.lock);
    uint64_t *at = out;
#define X(name)                                                                                              \
    if (strcmp(#name, "created") == 0) *at += load_relaxed(&S.created_outside);                              \
    at++;
    P_COUNTERS(X)
#undef X
}

static void read_counters(uint64_t *out) {
    memcpy(out, T.ended, sizeof T.ended);
    add_counters(out);
}

/* Waits until everybody who counts and traces has come to a point after the last change of
 * trace_on. What belongs together (counting and tracing it) happens within one stay in the
 * core with a P, or within one visit; so it is enough to see each M outside, without a P or in
 * a later stay. False: somebody didn't come out for long. (sysmon isn't waited for: its
 * counters may be one ahead of its events.)
 *
 * Order: here   trace_on (seq_cst), then hold (seq_cst)
 *        an M   hold = HOLD_CORE, then trace_on: seq_cst where it comes from host code. The
 *               exchange in sched_enter is an acquire only: where the CPU lets the look at
 *               trace_on overtake it, one event may be late. It then lies in its ring until
 *               the next trace, which drops what it finds there. */
static bool quiesce(void) {
    int64_t until = nanotime() + QUIESCE_PATIENCE;
    atomic_thread_fence(memory_order_seq_cst);
    while (load_seq(&S.visitors)) { /* M's under way to allm, too */
        if (nanotime() > until) return false;
        sched_yield();
    }
    uint32_t nm = load_seq(&S.nm);
    for (uint32_t i = 0; i < nm && i < MAX_M; i++) {
        m *mp = load_acquire(&S.allm[i]);
        uint64_t entries = mp ? load_acquire(&mp->entries) : 0;
        while (mp && load_seq(&mp->hold) == HOLD_CORE && load_seq(&mp->p) &&
               load_relaxed(&mp->entries) == entries) {
            if (nanotime() > until) return false;
            sched_yield();
        }
        if (mp) (void)load_seq(&mp->hold); /* its writes happened before this */
    }
    return true;
}

int trace_start(int fd, uint32_t limit) {
    if (limit == 0 || limit > TRACE_RING) limit = TRACE_RING;
    pthread_mutex_lock(&T.control);
    int err = T.active ? EBUSY : 0;
    if (!err) {
        T.fd = fd;
        T.sum = (trace_sum){.exact = true};
        memset(T.ended, 0, sizeof T.ended);
        store_relaxed(&T.size, limit < 8 ? 8 : limit);
        store_relaxed(&T.no_ring, 0);
        store_relaxed(&T.stopping, false);
        for (uint32_t i = 0; i < RINGS; i++) { /* nobody writes now */
            trace_ring *r = load_acquire(&T.ring[i]);
            if (!r) continue;
            store_relaxed(&r->tail, load_acquire(&r->head));
            store_relaxed(&r->lost, 0);
            r->told = 0;
        }
        err = pthread_create(&T.drainer, NULL, drainer_main, sched_self);
    }
    if (!err) {
        T.active = true;
        read_counters(T.counts[0]);
        bool exact = quiesce(); /* what has been counted by now isn't traced */
        T.sum.begin = nanotime();
        store_seq(&trace_on, true);
        T.sum.exact = quiesce() && exact;
        read_counters(T.counts[1]);
    }
    pthread_mutex_unlock(&T.control);
    return -err;
}

/* What nobody told any more: the writers are gone. */
static void tell_lost(void) {
    for (uint32_t i = 0; i < RINGS; i++) {
        trace_ring *r = load_acquire(&T.ring[i]);
        uint64_t lost = r ? load_relaxed(&r->lost) - r->told : 0;
        if (i == SHARED) lost += load_relaxed(&T.no_ring);
        if (!lost) continue;
        uint16_t index = i == SHARED ? TRACE_NONE : (uint16_t)i;
        trace_rec recs[2] = {{.arg = 1, .p = index, .type = TRACE_CHUNK},
                             {.when = T.sum.end, .arg = lost, .p = index, .type = TRACE_LOST}};
        struct iovec io = {recs, sizeof recs};
        write_all(&io, 1, 1);
    }
}

static void write_counts(void) {
    for (uint32_t s = 0; s < SNAPSHOTS; s++)
        for (uint32_t c = 0; c < COUNTERS; c++) {
            trace_rec rec = {
                .g = c, .arg = T.counts[s][c], .seq = (uint16_t)s, .p = TRACE_NONE, .type = TRACE_COUNT};
            struct iovec io = {&rec, sizeof rec};
            write_all(&io, 1, 0);
        }
}

int trace_stop(trace_sum *out) {
    pthread_mutex_lock(&T.control);
    int err = T.active ? 0 : EINVAL;
    if (!err) {
        bool exact = T.sum.exact;
        read_counters(T.counts[2]);
        exact &= quiesce(); /* what has been counted by now is traced after this */
        store_seq(&trace_on, false);
        exact &= quiesce();
        mutex_lock(&T.shared_lock);
        mutex_unlock(&T.shared_lock);
        read_counters(T.counts[3]);
        T.active = false;
        store_release(&T.stopping, true);
        note_wake(&T.note);
        pthread_join(T.drainer, NULL);
        T.sum.end = nanotime();
        T.sum.exact = exact;
        drain();
        tell_lost();
        write_counts();
        for (uint32_t i = 0; i < RINGS; i++) {
            trace_ring *r = load_acquire(&T.ring[i]);
            if (r) T.sum.lost += load_relaxed(&r->lost);
        }
        T.sum.lost += load_relaxed(&T.no_ring);
        *out = T.sum;
    }
    pthread_mutex_unlock(&T.control);
    return -err;
}

/* ---------------------------------------------------------------- runtimes and forks */

void trace_runtime_ends(void) {
    pthread_mutex_lock(&T.control);
    if (!T.active) return;
    add_counters(T.ended);
    trace_emit(TRACE_STOPPED, 0, 0, 0, 0);
}

void trace_runtime_ended(void) { pthread_mutex_unlock(&T.control); }

void trace_after_fork(void) {
    /* The file and whatever was in the rings are the parent's. */
    store_relaxed(&trace_on, false);
    pthread_mutex_init(&T.control, NULL);
    T.active = false;
    T.shared_lock = (mutex){0};
    T.note = (note){0};
    for (uint32_t i = 0; i < RINGS; i++) store_relaxed(&T.ring[i], NULL);
    thread_id = 0;
}
