#include "timer.h"

#include <stdlib.h>

#include "g.h"
#include "trace.h"

void timers_init(timers *h) {
    *h = (timers){.at = NULL};
    store_relaxed(&h->next, INT64_MAX);
}

void timers_free(timers *h) {
    free(h->at);
    timers_init(h);
}

static void place(timers *h, int32_t i, timer *t) {
    h->at[i] = t;
    t->index = i;
}

static void sift_up(timers *h, int32_t i, timer *t) {
    while (i > 0) {
        int32_t parent = (i - 1) / 4;
        if (h->at[parent]->when <= t->when) break;
        place(h, i, h->at[parent]);
        i = parent;
    }
    place(h, i, t);
}

static void sift_down(timers *h, int32_t i, timer *t) {
    for (;;) {
        int32_t first = i * 4 + 1, best = -1;
        int64_t when = t->when;
        for (int32_t c = first; c < first + 4 && c < h->n; c++)
            if (h->at[c]->when < when) {
                best = c;
                when = h->at[c]->when;
            }
        if (best < 0) break;
        place(h, i, h->at[best]);
        i = best;
    }
    place(h, i, t);
}

static void publish(timers *h) { store_seq(&h->next, h->n ? h->at[0]->when : INT64_MAX); }

/* Takes the timer at i out of the heap. */
static void take(timers *h, int32_t i) {
    timer *t = h->at[i], *last = h->at[--h->n];
    t->index = -1;
    if (last != t) {
        if (i > 0 && last->when < h->at[(i - 1) / 4]->when)
            sift_up(h, i, last);
        else
            sift_down(h, i, last);
    }
    if (i == 0) publish(h);
}

static bool add(timers *h, timer *t, int64_t when, parker *k, uint64_t seq, parker *(*fire)(timer *)) {
    mutex_lock(&h->lock);
    if (h->n == h->cap) {
        /* Rare, and amortised: the one allocation under a leaf lock. The C allocator
         * calls nobody back. */
        int32_t cap = h->cap ? h->cap * 2 : 64;
        timer **at = realloc(h->at, (size_t)cap * sizeof(*at));
        if (!at) {
            mutex_unlock(&h->lock);
            return false;
        }
        h->at = at;
        h->cap = cap;
    }
    t->when = when;
    t->heap = h;
    t->parker = k;
    t->seq = seq;
    t->fire = fire;
    sift_up(h, h->n++, t);
    if (h->at[0] == t) publish(h);
    mutex_unlock(&h->lock);
    return true;
}

bool timers_add(timers *h, timer *t, int64_t when, parker *k, uint64_t seq) {
    return add(h, t, when, k, seq, NULL);
}

bool timers_add_fire(timers *h, timer *t, int64_t when, parker *(*fire)(timer *)) {
    return add(h, t, when, NULL, 0, fire);
}

void timer_remove(timer *t) {
    timers *h = t->heap;
    if (!h) return;
    mutex_lock(&h->lock);
    if (t->index >= 0) take(h, t->index);
    mutex_unlock(&h->lock);
}

int timers_run(timers *h, int64_t now) {
    int woken = 0;
    while (timers_due(h, now)) {
        mutex_lock(&h->lock);
        if (!h->n || h->at[0]->when > now) {
            mutex_unlock(&h->lock);
            break;
        }
        timer *t = h->at[0];
        parker *k = t->parker;
        uint64_t seq = t->seq;
        int64_t late = now - t->when;
        atomic_fetch_add(&h->firing, 1);
        take(h, 0);
        hist_add(&h->late, late);
        count_add(&h->fired, 1);
        parker *fired = t->fire ? t->fire(t) : NULL;
        /* The timer is its owner's again: from here on only (k, seq) count, and a parker
         * outlives every timer that names it. */
        mutex_unlock(&h->lock);
        if (k && parker_claim(k, seq, WAKE_TIMEOUT)) fired = k;
        trace_event(TRACE_TIMER, fired && fired->g ? fired->g->id : 0, late > 0 ? late : 0);
        if (fired) {
            parker_unpark(fired);
            woken++;
        }
        atomic_fetch_sub(&h->firing, 1);
    }
    return woken;
}
