/* g: a green thread as the scheduler sees it, from a slab that never moves or frees.
 *
 *     IDLE -> RUNNABLE -> RUNNING -> WAITING -> RUNNABLE ...
 *                            |-> RUNNABLE (yield)   |-> RUNNING (its own M took the wait back)
 *                            |-> DEAD -> IDLE
 *             RUNNABLE -> DEAD (cancelled before it ran)
 *
 * A g is *fresh* until an M runs it for the first time (m == NULL: any M may take it)
 * and *started* ever after: pinned to that M, because its machine stack lives there.
 * Because only that M can run it, a g may be made runnable while it is still on its way
 * to sleep: its M will find it in the bound queue when it asks for work. That is why
 * there is no park-commit handshake here as in Go.
 */
#ifndef GMPY_G_H
#define GMPY_G_H

#include "core.h"
#include "park.h"
#include "timer.h"

enum g_status { G_IDLE = 0, G_RUNNABLE, G_RUNNING, G_WAITING, G_DEAD };

enum wait_reason {
    WAIT_NONE = 0,
    WAIT_SLEEP,
    WAIT_CHAN_SEND,
    WAIT_CHAN_RECV,
    WAIT_SELECT,
    WAIT_JOIN,
    WAIT_MUTEX,
    WAIT_GROUP,
    WAIT_IO_READ,
    WAIT_IO_WRITE,
    WAIT_BLOCKING,
    WAIT_PARK,
    WAIT_COND,
    WAIT_EVENT,
    WAIT_SEMAPHORE,
    WAIT_BARRIER,
    WAIT_RLOCKED,
    WAIT_WLOCKED,
    WAIT_ONCE,
    WAIT_QUEUE_GET,
    WAIT_QUEUE_PUT,
    WAIT_TIMERS,
    WAIT_TASKS,
    WAIT_REASONS
};

struct g {
    /* The first two cache lines are what go(), a run and the end touch. */
    _Alignas(CACHE_LINE) qlink link; /* in a run queue while RUNNABLE; in a free list while IDLE */
    _Atomic uint32_t status;
    uint32_t index;       /* place in the slab */
    _Atomic uint32_t gen; /* how often the slot was used: tags ids, so that a stale id is seen */
    mutex host_lock;
    _Atomic(m *) m;             /* the M it is pinned to; NULL while fresh */
    _Atomic uint64_t id;        /* for people: unique, rising within one M */
    _Atomic int64_t ready_at;   /* when it became runnable; thieves peek at it */
    void *host;                 /* the host's object while the g lives; for others under host_lock */
    void *frame;                /* host: the interpreter frame it parked in, for the collector */
    _Atomic int64_t wait_since; /* when it last parked */
    _Atomic int64_t ran_ns;     /* in earlier slices, since it last gave way by itself */
    _Atomic uint8_t reason;     /* enum wait_reason */
    bool solo;                  /* had better start on an M of its own */
    bool latency;               /* of the latency class: see scheduler.h, reserved P's */
    bool blocked;               /* blocked its M for long, undeclared. Written by its M */
    _Atomic bool cancel;        /* somebody wants the next wait to end with WAKE_CANCEL */
    uint16_t trace_seq;         /* see trace.h. Written by who makes it runnable */
    parker parker;
    waiter waiter; /* for waits on one thing at a time */
    timer timer;   /* the deadline of the wait under way */
};

/* A g from the free list or a new one, IDLE. NULL when memory is short. */
g *g_alloc(void);
/* Back to the free list: no queue, waiter or timer may hold it any more. */
void g_free(g *gp);
/* Between these two the thread keeps a few free g's for itself. */
void g_cache_begin(void);
void g_cache_end(void);
/* In a forked child: who held the lock or changed the list doesn't exist here. What was free
 * then isn't used again. */
void g_after_fork(void);

/* gen << 32 | index: an id that tells when its slot was given to another g. */
static inline uint64_t g_handle(g *gp) { return (uint64_t)load_relaxed(&gp->gen) << 32 | gp->index; }
g *g_lookup(uint64_t handle);

/* Slots ever made: 0 <= index < g_slots(); g_at never returns NULL for those. */
uint32_t g_slots(void);
g *g_at(uint32_t index);

static inline uint32_t g_status(g *gp) { return load_acquire(&gp->status); }

/* The only way a status changes; the assertion knows the diagram above. */
static inline bool g_legal(uint32_t from, uint32_t to) {
    switch (from) {
    case G_IDLE: return to == G_RUNNABLE;
    case G_RUNNABLE: return to == G_RUNNING || to == G_DEAD;
    case G_RUNNING: return to == G_WAITING || to == G_RUNNABLE || to == G_DEAD;
    case G_WAITING: return to == G_RUNNABLE || to == G_RUNNING;
    case G_DEAD: return to == G_IDLE;
    }
    return false;
}

static inline void g_move(g *gp, uint32_t from, uint32_t to) {
    assert(g_legal(from, to));
#ifdef NDEBUG
    (void)from;
    store_release(&gp->status, to);
#else
    uint32_t seen = atomic_exchange_explicit(&gp->status, to, memory_order_acq_rel);
    assert(seen == from);
#endif
}

/* Begins a wait of k's owner (who runs): from now on whoever claims (k, seq) may make it
 * runnable, even before it has asked its M for the next g. */
static inline uint64_t wait_begin(parker *k) {
    if (k->g) g_move(k->g, G_RUNNING, G_WAITING);
    return parker_begin(k);
}

/* The owner ends its own wait with `why`; false: somebody else has claimed it, and the
 * owner must sleep to take that wake-up. */
static inline bool wait_take_back(parker *k, uint64_t seq, uint8_t why) {
    if (!parker_claim(k, seq, why)) return false;
    if (k->g) g_move(k->g, G_WAITING, G_RUNNING);
    return true;
}

#endif
