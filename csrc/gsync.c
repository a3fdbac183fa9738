#include "gsync.h"

#include "scheduler.h"

static const int64_t STARVING = 1 * MILLISECOND;

/* Looks seldom: each look takes the line away from the holder, who wants it for its release. */
bool glock_spin(glock *l, bool again) {
    if (!sched_may_spin()) return false;
    for (int64_t until = nanotime() + load_relaxed(&S.spin_ns); nanotime() < until;) {
        for (int i = 0; i < 64; i++) cpu_relax();
        uint32_t word = load_relaxed(&l->word);
        if (word == 2) return false;
        if (word == 0 && atomic_compare_exchange_strong_explicit(&l->word, &word, again ? 2 : 1,
                                                                 memory_order_acquire, memory_order_relaxed))
            return true;
    }
    return false;
}

bool glock_wait(glock *l, parker *k, waiter *w, int64_t since, bool again) {
    mutex_lock(&l->lock);
    if (atomic_exchange_explicit(&l->word, 2, memory_order_acquire) == 0) {
        mutex_unlock(&l->lock);
        return true;
    }
    waiter_init(w, k, wait_begin(k));
    w->since = since;
    if (again)
        waitq_push_front(&l->waiters, w);
    else
        waitq_push(&l->waiters, w);
    atomic_fetch_add(&l->nwaiters, 1);
    mutex_unlock(&l->lock);
    return false;
}

void glock_unwait(glock *l, waiter *w) {
    mutex_lock(&l->lock);
    waitq_remove(&l->waiters, w);
    atomic_fetch_sub(&l->nwaiters, 1);
    mutex_unlock(&l->lock);
}

/* A linked waiter's g lives: it can't leave before it has unlinked itself, which takes the lock. */
uint32_t glock_line(glock *l, uint64_t *ids, uint32_t room) {
    uint32_t n = 0;
    mutex_lock(&l->lock);
    for (waiter *w = l->waiters.first; w; w = w->next, n++)
        if (n < room) ids[n] = w->parker->g ? w->parker->g->id : 0;
    mutex_unlock(&l->lock);
    return n;
}

bool glock_release(glock *l) {
    uint32_t held = 1;
    if (likely(atomic_compare_exchange_strong_explicit(&l->word, &held, 0, memory_order_release,
                                                       memory_order_relaxed)))
        return true;
    if (held == 0) return false;
    mutex_lock(&l->lock);
    if (load_relaxed(&l->word) == 0) {
        mutex_unlock(&l->lock);
        return false;
    }
    waiter *w = waitq_claim(&l->waiters, WAKE_OK);
    if (w) {
        w->ok = nanotime() - w->since > STARVING;
        atomic_fetch_sub(&l->nwaiters, 1);
    }
    if (!w || !w->ok) atomic_store_explicit(&l->word, 0, memory_order_release);
    mutex_unlock(&l->lock);
    if (w) parker_unpark(w->parker);
    return true;
}

bool waitgroup_add(waitgroup *wg, int64_t n) {
    waiter *wake = NULL, *w;
    mutex_lock(&wg->lock);
    int64_t count;
    bool ok = !__builtin_add_overflow(wg->count, n, &count) && count >= 0;
    if (ok) wg->count = count;
    while (ok && wg->count == 0 && (w = waitq_claim(&wg->waiters, WAKE_OK))) {
        w->next = wake;
        wake = w;
    }
    mutex_unlock(&wg->lock);
    while ((w = wake)) {
        wake = w->next;
        w->next = NULL;
        parker_unpark(w->parker);
    }
    return ok;
}

bool waitgroup_wait(waitgroup *wg, parker *k, waiter *w) {
    mutex_lock(&wg->lock);
    bool zero = wg->count == 0;
    if (!zero && k) {
        waiter_init(w, k, wait_begin(k));
        waitq_push(&wg->waiters, w);
    }
    mutex_unlock(&wg->lock);
    return zero;
}

void waitgroup_unwait(waitgroup *wg, waiter *w) {
    mutex_lock(&wg->lock);
    waitq_remove(&wg->waiters, w);
    mutex_unlock(&wg->lock);
}
