/* runq: the queues that runnable g's wait in.
 *
 * runq   fresh g's of one P: a lock-free ring with runnext in front (Go's).
 * boundq started g's of one M: many producers, one consumer.
 * globq  fresh g's and M tokens of everybody: a locked list.
 */
#ifndef GMPY_RUNQ_H
#define GMPY_RUNQ_H

#include "g.h"

enum {
    RUNQ_SIZE = 256,
    RUNNEXT_MAX = 16, /* every so many times the ring goes before runnext (tokio caps it, too) */
};

typedef struct globq {
    mutex lock;
    qlink *first, *last;
    _Atomic uint32_t n;
} globq;

/* Written by: tail and slots, the owner only. head: the owner and thieves, by CAS.
 * Order: put   slot (relaxed), then tail (release)
 *        take  head (acquire), tail (acquire), slot (relaxed), then head CAS (acq_rel)
 * A slot in [head, tail) holds exactly one fresh g that is RUNNABLE and in no other
 * queue. A taker that loses the CAS has copied garbage and must drop it: the slot may
 * have been reused, but only after head has moved, so the CAS fails.
 * runnext: the g readied last; exchanged atomically, because thieves may take it. */
typedef struct runq {
    alignas(CACHE_LINE) _Atomic uint32_t head;
    alignas(CACHE_LINE) _Atomic uint32_t tail;
    _Atomic(g *) runnext;
    uint32_t nexts; /* owner only: how often runnext was in question */
    _Atomic(g *) slot[RUNQ_SIZE];
} runq;

/* Owner only. Puts a fresh g; next: in front, as runnext. When the ring is full, half of
 * it and the g go to `overflow`. */
void runq_put(runq *q, g *gp, bool next, globq *overflow);
/* Owner only. NULL when empty. */
g *runq_get(runq *q);
/* Owner of `to` only. Moves half of `from` to `to` and returns one more to run now.
 * min_age: g's that became runnable less than that long ago are left alone (they may
 * want to stay with who made them); *too_young tells that there was one. */
g *runq_steal(runq *to, runq *from, int64_t now, int64_t min_age, bool *too_young, uint32_t *stolen);
bool runq_empty(runq *q);
uint32_t runq_len(runq *q);

/* Intrusive MPSC queue (D. Vyukov). push: any thread, wait-free. pop: the owner M only.
 * Order: push  link->next = NULL, prev = exchange(tail, link) (acq_rel), prev->next = link (release)
 *        pop   head->next (acquire)
 * Between a pusher's exchange and its store the list is cut: pop then returns NULL
 * although the queue isn't empty; n (counted before the exchange, seq_cst) says so, and
 * the owner must not sleep while n != 0.
 * What the owner itself makes runnable (most of it: yields, ping-pong) goes through a
 * plain list beside it, without an atomic exchange; pop takes from both in turns. */
typedef struct boundq {
    alignas(CACHE_LINE) _Atomic(qlink *) tail;
    _Atomic uint32_t n;
    alignas(CACHE_LINE) qlink *head;
    qlink stub;
    qlink *own_first, *own_last;
    _Atomic uint32_t nown;
    bool own_turn;
} boundq;

void boundq_init(boundq *q);
void boundq_push(boundq *q, g *gp);
g *boundq_pop(boundq *q);
bool boundq_cut(boundq *q); /* owner: is a pusher between its two steps, and is that all? */
static inline uint32_t boundq_len(boundq *q) { return load_seq(&q->n) + load_relaxed(&q->nown); }

/* Owner only. */
static inline void boundq_push_own(boundq *q, g *gp) {
    store_relaxed(&gp->link.next, NULL);
    if (q->own_first)
        store_relaxed(&q->own_last->next, &gp->link);
    else
        q->own_first = &gp->link;
    q->own_last = &gp->link;
    count_add(&q->nown, 1);
}

void globq_put(globq *q, qlink *first, qlink *last, uint32_t n);
static inline void globq_put_one(globq *q, qlink *l) { globq_put(q, l, l, 1); }
/* Takes one; NULL when empty. */
qlink *globq_get(globq *q);
/* Takes fresh g's from the front, at most `max`: the first is returned, the others go to
 * `to` (owner only). Stops before a token; a token in front is returned alone. */
qlink *globq_get_batch(globq *q, uint32_t max, runq *to);
static inline uint32_t globq_len(globq *q) { return load_seq(&q->n); }

#endif
