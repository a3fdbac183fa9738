/* chan: Go's channels, and select over them. After Go's runtime/chan.go and select.go.
 *
 * A locked ring and two queues of waiters. Invariants, under the lock:
 *   - a waiting receiver means that the ring is empty and no sender waits;
 *   - a waiting sender means that the ring is full and no receiver waits;
 *   - a closed channel has no waiting receiver and no waiting sender.
 * (Waiters whose wait ended otherwise may still be linked: they are skipped, because
 * their claim fails, and unlink themselves.)
 *
 * A value goes straight to a waiting receiver: the claimer writes it into the waiter
 * before it unparks, and nobody else touches the waiter in between.
 *
 * select locks its channels in the order of their addresses. For a wait on several
 * channels one waiter per case shares one parker: who claims the parker has won, the
 * others find their claim refused.
 */
#ifndef GMPY_CHAN_H
#define GMPY_CHAN_H

#include "core.h"
#include "park.h"

typedef struct chan {
    mutex lock;
    uint32_t cap;
    _Atomic uint32_t count; /* values in the ring */
    uint32_t first;
    _Atomic bool closed;
    waitq recvq, sendq;
    void **ring;
} chan;

enum chan_result {
    CHAN_DONE = 0, /* sent, or received into *out */
    CHAN_CLOSED = 1,
    CHAN_FULL = 2,   /* would block: nobody ready */
    CHAN_PARKED = 3, /* the waiter is queued: sleep */
};

bool chan_init(chan *c, uint32_t cap); /* false: no memory */
void chan_free(chan *c);

/* k == NULL: don't wait. Otherwise, if it must wait, k's owner begins a wait and w is
 * queued for it, with w->val the value to send. */
enum chan_result chan_send(chan *c, void *v, parker *k, waiter *w);
enum chan_result chan_recv(chan *c, void **out, parker *k, waiter *w);
/* Takes w out after a wake-up by something else than the channel. */
void chan_unwait(chan *c, waiter *w, bool sending);
/* Makes room for twice as many values. False: no memory, or too many. Waiting senders stay where
 * they are: for channels whose senders don't wait but grow it. */
bool chan_grow(chan *c);
/* False: it was closed already. */
bool chan_close(chan *c);

typedef struct chan_case {
    chan *c; /* NULL: never ready */
    bool sending;
    void *val; /* to send; what was received */
    waiter *w; /* where to wait; on the heap */
} chan_case;

/* Tries the cases in random order. Returns the index of the one that was done, with
 * *closed set if its channel is closed; -1 if none is ready (then, if k isn't NULL, its
 * owner has begun a wait on every case). `order` has room for 2 * n. */
int select_try(chan_case *cases, uint32_t n, parker *k, uint32_t *order, uint64_t *rand, bool *closed);
/* After the wake-up: unlinks every waiter. */
void select_done(chan_case *cases, uint32_t n);

#endif
