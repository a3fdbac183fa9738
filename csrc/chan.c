#include "chan.h"

#include "g.h"

#include <stdlib.h>

bool chan_init(chan *c, uint32_t cap) {
    *c = (chan){.cap = cap};
    if (cap) c->ring = calloc(cap, sizeof(void *));
    return !cap || c->ring;
}

void chan_free(chan *c) {
    free(c->ring);
    c->ring = NULL;
}

static void ring_put(chan *c, void *v) {
    uint32_t n = load_relaxed(&c->count), at = c->first + n;
    if (at >= c->cap) at -= c->cap;
    c->ring[at] = v;
    store_relaxed(&c->count, n + 1);
}

static void *ring_take(chan *c) {
    void *v = c->ring[c->first];
    c->ring[c->first] = NULL;
    if (++c->first == c->cap) c->first = 0;
    store_relaxed(&c->count, load_relaxed(&c->count) - 1);
    return v;
}

/* One try under the lock. *wake is the partner to unpark once the lock is gone. */
static enum chan_result try_send(chan *c, void *v, waiter **wake) {
    waiter *partner;
    if (load_relaxed(&c->closed)) return CHAN_CLOSED;
    if (c->recvq.first && (partner = waitq_claim(&c->recvq, WAKE_OK))) {
        partner->val = v;
        partner->ok = true;
        *wake = partner;
        return CHAN_DONE;
    }
    if (load_relaxed(&c->count) == c->cap) return CHAN_FULL;
    ring_put(c, v);
    return CHAN_DONE;
}

static enum chan_result try_recv(chan *c, void **out, waiter **wake) {
    waiter *partner;
    if (load_relaxed(&c->count)) {
        *out = ring_take(c);
        /* The ring was full if somebody waits: its value takes the place at the end. */
        if (c->sendq.first && (partner = waitq_claim(&c->sendq, WAKE_OK))) {
            ring_put(c, partner->val);
            partner->ok = true;
            *wake = partner;
        }
        return CHAN_DONE;
    }
    if (c->sendq.first && (partner = waitq_claim(&c->sendq, WAKE_OK))) {
        *out = partner->val;
        partner->ok = true;
        *wake = partner;
        return CHAN_DONE;
    }
    return load_relaxed(&c->closed) ? CHAN_CLOSED : CHAN_FULL;
}

enum chan_result chan_send(chan *c, void *v, parker *k, waiter *w) {
    waiter *wake = NULL;
    mutex_lock(&c->lock);
    enum chan_result r = try_send(c, v, &wake);
    if (r == CHAN_FULL && k) {
        waiter_init(w, k, wait_begin(k));
        w->val = v;
        waitq_push(&c->sendq, w);
        r = CHAN_PARKED;
    }
    mutex_unlock(&c->lock);
    if (wake) parker_unpark(wake->parker);
    return r;
}

enum chan_result chan_recv(chan *c, void **out, parker *k, waiter *w) {
    waiter *wake = NULL;
    mutex_lock(&c->lock);
    enum chan_result r = try_recv(c, out, &wake);
    if (r == CHAN_FULL && k) {
        waiter_init(w, k, wait_begin(k));
        waitq_push(&c->recvq, w);
        r = CHAN_PARKED;
    }
    mutex_unlock(&c->lock);
    if (wake) parker_unpark(wake->parker);
    return r;
}

/* The memory is got and freed outside the lock; two that grow it at once do so once. */
bool chan_grow(chan *c) {
    mutex_lock(&c->lock);
    uint32_t cap = c->cap;
    mutex_unlock(&c->lock);
    uint32_t twice = cap ? 2 * cap : 1;
    void **ring = cap > UINT32_MAX / 4 ? NULL : calloc(twice, sizeof(void *)), **drop = ring;
    if (!ring) return false;
    mutex_lock(&c->lock);
    if (c->cap == cap) {
        for (uint32_t i = 0; i < load_relaxed(&c->count); i++) ring[i] = c->ring[(c->first + i) % cap];
        drop = c->ring;
        c->ring = ring;
        c->cap = twice;
        c->first = 0;
    }
    mutex_unlock(&c->lock);
    free(drop);
    return true;
}

void chan_unwait(chan *c, waiter *w, bool sending) {
    mutex_lock(&c->lock);
    waitq_remove(sending ? &c->sendq : &c->recvq, w);
    mutex_unlock(&c->lock);
}

bool chan_close(chan *c) {
    waiter *wake = NULL, *w;
    mutex_lock(&c->lock);
    bool first = !load_relaxed(&c->closed);
    store_release(&c->closed, true);
    while (first && ((w = waitq_claim(&c->recvq, WAKE_OK)) || (w = waitq_claim(&c->sendq, WAKE_OK)))) {
        w->ok = false;
        w->next = wake;
        wake = w;
    }
    mutex_unlock(&c->lock);
    while ((w = wake)) {
        wake = w->next;
        w->next = NULL;
        parker_unpark(w->parker);
    }
    return first;
}

/* ---------------------------------------------------------------- select */

static void sort_by_address(chan_case *cases, uint32_t *at, uint32_t n) {
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t j = i; j > 0 && cases[at[j - 1]].c > cases[at[j]].c; j--) {
            uint32_t t = at[j];
            at[j] = at[j - 1];
            at[j - 1] = t;
        }
}

/* A channel that stands in several cases is locked once. */
static void lock_all(chan_case *cases, uint32_t *at, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || cases[at[i]].c != cases[at[i - 1]].c) mutex_lock(&cases[at[i]].c->lock);
}

static void unlock_all(chan_case *cases, uint32_t *at, uint32_t n) {
    for (uint32_t i = n; i-- > 0;)
        if (i == 0 || cases[at[i]].c != cases[at[i - 1]].c) mutex_unlock(&cases[at[i]].c->lock);
}

int select_try(chan_case *cases, uint32_t n, parker *k, uint32_t *order, uint64_t *rand, bool *closed) {
    uint32_t *poll = order, *lock = order + n, live = 0;
    int done = -1;
    waiter *wake = NULL;
    *closed = false;
    for (uint32_t i = 0; i < n; i++) { /* Fisher-Yates, inside out */
        if (!cases[i].c) continue;
        uint32_t j = rand_next(rand) % (live + 1);
        poll[live] = poll[j];
        poll[j] = i;
        lock[live++] = i;
    }
    sort_by_address(cases, lock, live);
    lock_all(cases, lock, live);
    for (uint32_t i = 0; i < live && done < 0; i++) {
        chan_case *cc = &cases[poll[i]];
        enum chan_result r = cc->sending ? try_send(cc->c, cc->val, &wake) : try_recv(cc->c, &cc->val, &wake);
        if (r == CHAN_FULL) continue;
        done = (int)poll[i];
        *closed = r == CHAN_CLOSED;
    }
    if (done < 0 && k) {
        uint64_t seq = wait_begin(k);
        /* In the random order, too: one channel may stand in several cases. */
        for (uint32_t i = 0; i < live; i++) {
            chan_case *cc = &cases[poll[i]];
            waiter_init(cc->w, k, seq);
            cc->w->index = poll[i];
            cc->w->val = cc->sending ? cc->val : NULL;
            waitq_push(cc->sending ? &cc->c->sendq : &cc->c->recvq, cc->w);
        }
    }
    unlock_all(cases, lock, live);
    if (wake) parker_unpark(wake->parker);
    return done;
}

void select_done(chan_case *cases, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (cases[i].c) chan_unwait(cases[i].c, cases[i].w, cases[i].sending);
}
