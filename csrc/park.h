/* park: how threads and g's sleep and are woken.
 *
 * mutex   a leaf lock: held for a few dozen instructions, never across a switch,
 *         a host callback or an allocation.
 * note    one sleep, one wake-up of an OS thread (Go's note), on a futex.
 * parker  who may wake a sleeping g or plain thread: exactly one of all who try.
 */
#ifndef GMPY_PARK_H
#define GMPY_PARK_H

#include "core.h"

/* ---- mutex: 0 free, 1 held, 2 held and somebody sleeps (Drepper, "Futexes are
 * tricky", mutex 3). Lock is an acquire, unlock a release. */
typedef struct mutex {
    _Atomic uint32_t word;
} mutex;

void mutex_lock_slow(mutex *l);
void mutex_wake(mutex *l);

static inline void mutex_lock(mutex *l) {
    uint32_t free = 0;
    late();
    if (unlikely(!atomic_compare_exchange_strong_explicit(&l->word, &free, 1, memory_order_acquire,
                                                          memory_order_relaxed)))
        mutex_lock_slow(l);
}

static inline void mutex_unlock(mutex *l) {
    late();
    if (unlikely(atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2)) mutex_wake(l);
}

/* ---- note: wake may come before sleep; then sleep returns at once. */
typedef struct note {
    _Atomic uint32_t set;
} note;

void note_wake(note *n);
/* Sleeps until woken or until the deadline; returns whether woken, and clears the
 * note if so. */
bool note_sleep(note *n, int64_t deadline);
/* The same, but returns early (false) when a signal interrupts the thread. */
bool note_sleep_signals(note *n, int64_t deadline);

/* ---- parker: word = seq << 2 | state.
 *
 * Only the owner starts a wait: begin() moves to (seq + 1, WAITING). Whoever wants to
 * end that wait (a channel, a timer, the netpoller, cancel, the owner itself) must win
 * the CAS (seq, WAITING) -> (seq, CLAIMED) first: there is one winner, and only the
 * winner may write `wake` and `hit` and call unpark. A stale claim (older seq) fails.
 *
 * begin is seq_cst: it is ordered against the owner's later look at its cancel flag,
 * as a canceller sets that flag (seq_cst) before it looks at the word.
 * The claim is acq_rel; `wake` and `hit` are plain, published by the queue or the note
 * that unpark goes through. */
enum { PARK_IDLE = 0, PARK_WAITING = 1, PARK_CLAIMED = 2, PARK_STATE_MASK = 3 };

enum wake_reason {
    WAKE_OK = 0,      /* what was waited for has come */
    WAKE_TIMEOUT = 1, /* the deadline passed */
    WAKE_CANCEL = 2,  /* somebody interrupted the wait */
    WAKE_CLOSED = 3,  /* the thing waited for was closed */
};

struct parker {
    _Atomic uint64_t word;
    g *g;        /* NULL: a plain thread, woken through its note */
    waiter *hit; /* the waiter that was chosen (select), set by the claimer */
    uint8_t wake;
    note note;
};

static inline uint64_t parker_begin(parker *k) {
    uint64_t seq = (load_relaxed(&k->word) >> 2) + 1;
    atomic_exchange_explicit(&k->word, seq << 2 | PARK_WAITING, memory_order_seq_cst);
    return seq;
}

static inline bool parker_claim(parker *k, uint64_t seq, uint8_t why) {
    uint64_t want = seq << 2 | PARK_WAITING;
    late();
    if (!atomic_compare_exchange_strong_explicit(&k->word, &want, seq << 2 | PARK_CLAIMED,
                                                 memory_order_acq_rel, memory_order_relaxed))
        return false;
    k->wake = why;
    return true;
}

/* Claims whatever wait is under way now; returns whether there was one. */
static inline bool parker_claim_any(parker *k, uint8_t why) {
    uint64_t word = load_seq(&k->word);
    return (word & PARK_STATE_MASK) == PARK_WAITING && parker_claim(k, word >> 2, why);
}

/* Wakes the owner of a claimed parker. Defined beside the scheduler (scheduler.c). */
void parker_unpark(parker *k);

/* ---- waiter: one parker's place in one wait queue. Lives in a g, in a thread's own
 * memory or on the heap, never on a C stack: a parked g's stack is copied away.
 * Linked and unlinked under the lock of the object that owns the queue. */
struct waiter {
    waiter *next, *prev;
    parker *parker;
    uint64_t seq;
    void *val;      /* channel: the value on its way */
    int64_t since;  /* lock: when it began to wait */
    uint32_t index; /* select: which case */
    bool linked;
    bool ok; /* channel: a value was passed (not a close); lock: it is yours */
};

typedef struct waitq {
    waiter *first, *last;
} waitq;

static inline void waitq_push(waitq *q, waiter *w) {
    w->next = NULL;
    w->prev = q->last;
    if (q->last)
        q->last->next = w;
    else
        q->first = w;
    q->last = w;
    w->linked = true;
}

static inline void waitq_push_front(waitq *q, waiter *w) {
    w->prev = NULL;
    w->next = q->first;
    if (q->first)
        q->first->prev = w;
    else
        q->last = w;
    q->first = w;
    w->linked = true;
}

static inline void waitq_remove(waitq *q, waiter *w) {
    if (!w->linked) return;
    if (w->prev)
        w->prev->next = w->next;
    else
        q->first = w->next;
    if (w->next)
        w->next->prev = w->prev;
    else
        q->last = w->prev;
    w->next = w->prev = NULL;
    w->linked = false;
}

/* Prepares w as a place of the wait (k, seq) that has begun. */
static inline void waiter_init(waiter *w, parker *k, uint64_t seq) {
    w->next = w->prev = NULL;
    w->parker = k;
    w->seq = seq;
    w->val = NULL;
    w->index = 0;
    w->linked = false;
    w->ok = false;
}

/* Takes the first waiter whose wait could be claimed; those that were woken by
 * something else meanwhile are dropped. The caller unparks it after unlocking. */
static inline waiter *waitq_claim(waitq *q, uint8_t why) {
    waiter *w;
    while ((w = q->first)) {
        waitq_remove(q, w);
        if (parker_claim(w->parker, w->seq, why)) {
            w->parker->hit = w;
            return w;
        }
    }
    return NULL;
}

#endif
