/* runq.c: after Go's runtime/proc.go (runqput, runqget, runqgrab, runqsteal). */
#include "runq.h"

/* Moves half of the full ring and gp to the global queue, in one locked batch. */
static bool put_slow(runq *q, g *gp, uint32_t head, uint32_t tail, globq *overflow) {
    g *batch[RUNQ_SIZE / 2 + 1];
    uint32_t n = (tail - head) / 2;
    assert(n == RUNQ_SIZE / 2);
    for (uint32_t i = 0; i < n; i++) batch[i] = load_relaxed(&q->slot[(head + i) % RUNQ_SIZE]);
    if (!atomic_compare_exchange_strong_explicit(&q->head, &head, head + n, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return false; /* a thief made room */
    batch[n] = gp;
    for (uint32_t i = 0; i < n; i++) store_relaxed(&batch[i]->link.next, &batch[i + 1]->link);
    store_relaxed(&gp->link.next, NULL);
    globq_put(overflow, &batch[0]->link, &gp->link, n + 1);
    return true;
}

void runq_put(runq *q, g *gp, bool next, globq *overflow) {
    if (next) {
        gp = atomic_exchange_explicit(&q->runnext, gp, memory_order_acq_rel);
        if (!gp) return;
    }
    for (;;) {
        uint32_t head = load_acquire(&q->head), tail = load_relaxed(&q->tail);
        if (tail - head < RUNQ_SIZE) {
            store_relaxed(&q->slot[tail % RUNQ_SIZE], gp);
            store_release(&q->tail, tail + 1);
            return;
        }
        if (put_slow(q, gp, head, tail, overflow)) return;
    }
}

static g *get_from_ring(runq *q) {
    for (;;) {
        uint32_t head = load_acquire(&q->head), tail = load_relaxed(&q->tail);
        if (tail == head) return NULL;
        g *gp = load_relaxed(&q->slot[head % RUNQ_SIZE]);
        if (atomic_compare_exchange_strong_explicit(&q->head, &head, head + 1, memory_order_acq_rel,
                                                    memory_order_relaxed))
            return gp;
    }
}

g *runq_get(runq *q) {
    if (load_relaxed(&q->runnext)) {
        /* g's that each start one more would run one after the other for ever. */
        g *gp = unlikely(++q->nexts % RUNNEXT_MAX == 0) ? get_from_ring(q) : NULL;
        if (!gp) gp = atomic_exchange_explicit(&q->runnext, NULL, memory_order_acq_rel);
        if (gp) return gp;
    }
    return get_from_ring(q);
}

g *runq_steal(runq *to, runq *from, int64_t now, int64_t min_age, bool *too_young, uint32_t *stolen) {
    *stolen = 0;
    for (;;) {
        uint32_t head = load_acquire(&from->head), tail = load_acquire(&from->tail);
        uint32_t n = tail - head;
        n -= n / 2;
        if (n == 0) {
            g *gp = load_acquire(&from->runnext);
            if (!gp) return NULL;
            if (now - load_relaxed(&gp->ready_at) < min_age) {
                *too_young = true;
                return NULL;
            }
            if (!atomic_compare_exchange_strong_explicit(&from->runnext, &gp, NULL, memory_order_acq_rel,
                                                         memory_order_relaxed))
                continue;
            *stolen = 1;
            return gp;
        }
        if (n > RUNQ_SIZE / 2) continue; /* head and tail are from different moments */
        /* Reading the age of a g that another may take just now is harmless: slabs don't
         * go away, and the CAS below decides. */
        if (now - load_relaxed(&load_relaxed(&from->slot[head % RUNQ_SIZE])->ready_at) < min_age) {
            *too_young = true;
            return NULL;
        }
        /* The thief's ring needn't be empty: it may have left its first g to others. */
        uint32_t at = load_relaxed(&to->tail), room = RUNQ_SIZE - (at - load_acquire(&to->head));
        if (n > room + 1) n = room + 1;
        for (uint32_t i = 0; i < n - 1; i++)
            store_relaxed(&to->slot[(at + i) % RUNQ_SIZE], load_relaxed(&from->slot[(head + i) % RUNQ_SIZE]));
        g *gp = load_relaxed(&from->slot[(head + n - 1) % RUNQ_SIZE]);
        if (!atomic_compare_exchange_strong_explicit(&from->head, &head, head + n, memory_order_acq_rel,
                                                     memory_order_relaxed))
            continue;
        *stolen = n;
        if (n > 1) store_release(&to->tail, at + n - 1);
        return gp;
    }
}

bool runq_empty(runq *q) {
    /* head, tail and runnext can't be read at one moment: look again until tail stood
     * still, so that a g on its way from runnext to the ring isn't missed. */
    for (;;) {
        uint32_t head = load_seq(&q->head), tail = load_seq(&q->tail);
        g *next = load_seq(&q->runnext);
        if (tail == load_seq(&q->tail)) return head == tail && !next;
    }
}

uint32_t runq_len(runq *q) {
    uint32_t head = load_acquire(&q->head), tail = load_acquire(&q->tail);
    return tail - head + (load_relaxed(&q->runnext) != NULL);
}

void boundq_init(boundq *q) {
    store_relaxed(&q->stub.next, NULL);
    store_relaxed(&q->n, 0);
    q->head = &q->stub;
    q->own_first = q->own_last = NULL;
    store_relaxed(&q->nown, 0);
    store_release(&q->tail, &q->stub);
}

static void push_link(boundq *q, qlink *l) {
    store_relaxed(&l->next, NULL);
    qlink *prev = atomic_exchange_explicit(&q->tail, l, memory_order_acq_rel);
    store_release(&prev->next, l);
}

void boundq_push(boundq *q, g *gp) {
    atomic_fetch_add_explicit(&q->n, 1, memory_order_seq_cst);
    push_link(q, &gp->link);
}

static g *pop_own(boundq *q) {
    qlink *l = q->own_first;
    if (!l) return NULL;
    q->own_first = load_relaxed(&l->next);
    count_add(&q->nown, -1);
    q->own_turn = false;
    return containerof(l, g, link);
}

static g *pop_shared(boundq *q) {
    if (load_relaxed(&q->n) == 0) return NULL;
    q->own_turn = true;
    qlink *head = q->head, *next = load_acquire(&head->next);
    if (head == &q->stub) {
        if (!next) return NULL;
        q->head = head = next;
        next = load_acquire(&head->next);
    }
    if (!next) {
        if (head != load_acquire(&q->tail)) return NULL; /* a pusher is between its two steps */
        push_link(q, &q->stub);
        next = load_acquire(&head->next);
        if (!next) return NULL;
    }
    q->head = next;
    atomic_fetch_sub_explicit(&q->n, 1, memory_order_relaxed);
    return containerof(head, g, link);
}

g *boundq_pop(boundq *q) {
    bool own = q->own_turn;
    g *gp = own ? pop_own(q) : pop_shared(q);
    if (!gp) gp = own ? pop_shared(q) : pop_own(q);
    return gp;
}

bool boundq_cut(boundq *q) {
    return load_seq(&q->n) != 0 && !q->own_first && !load_acquire(&q->head->next) &&
           (q->head == &q->stub || q->head != load_acquire(&q->tail));
}

void globq_put(globq *q, qlink *first, qlink *last, uint32_t n) {
    store_relaxed(&last->next, NULL);
    mutex_lock(&q->lock);
    if (q->last)
        store_relaxed(&q->last->next, first);
    else
        q->first = first;
    q->last = last;
    store_seq(&q->n, load_relaxed(&q->n) + n);
    mutex_unlock(&q->lock);
}

static qlink *unlink_first(globq *q) {
    qlink *l = q->first;
    q->first = load_relaxed(&l->next);
    if (!q->first) q->last = NULL;
    store_seq(&q->n, load_relaxed(&q->n) - 1);
    return l;
}

qlink *globq_get(globq *q) {
    if (globq_len(q) == 0) return NULL;
    mutex_lock(&q->lock);
    qlink *l = q->first ? unlink_first(q) : NULL;
    mutex_unlock(&q->lock);
    return l;
}

qlink *globq_get_batch(globq *q, uint32_t max, runq *to) {
    if (globq_len(q) == 0) return NULL;
    mutex_lock(&q->lock);
    qlink *l = q->first ? unlink_first(q) : NULL;
    uint32_t room = RUNQ_SIZE - (load_relaxed(&to->tail) - load_acquire(&to->head));
    uint32_t tail = load_relaxed(&to->tail), n = 0;
    if (l && !l->is_token)
        for (; n + 1 < max && n < room && q->first && !q->first->is_token; n++)
            store_relaxed(&to->slot[(tail + n) % RUNQ_SIZE], containerof(unlink_first(q), g, link));
    if (n) store_release(&to->tail, tail + n);
    mutex_unlock(&q->lock);
    return l;
}
