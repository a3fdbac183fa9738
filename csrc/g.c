/* g.c: the slab of g's.
 *
 * Chunks are added, never moved or freed: a g's address and index are for life. Each is
 * handed out from its start, so that memory nobody needs is never touched. (Huge pages for
 * it, for the frames and for the heap were tried: fewer page faults, but where free memory
 * has gone back to a hypervisor, clearing them took three times as long: 16 us a G.)
 *
 * Free g's move in batches between a list under a lock and a small cache per thread (the
 * magazines of Bonwick and Adams, "Magazines and Vmem", 2001), so that the usual go() and end
 * touch no shared line, and nobody walks through cold g's while it holds the lock. A thread's
 * cache is two batches: one that g's are taken from and put to, and a spare, full or empty. */
#include "g.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_G = 8192, MAX_CHUNKS = 1 << 14, BATCH = 32 };

typedef struct batch {
    g *first; /* linked through link */
    uint32_t n;
} batch;

static _Atomic(g *) chunks[MAX_CHUNKS];
static _Atomic uint32_t slots; /* == carved, for readers without the lock */
static uint32_t carved, nchunks;
static mutex slab_lock;
static g *batches; /* the first g of each; its waiter, idle as it is, says how many and which is next */

/* Only M's keep any (keeps): other threads come and go, and nobody tells when they end. */
static _Thread_local struct {
    batch at_hand, spare;
    bool keeps;
} cache;

static void push(batch *b, g *gp) {
    store_relaxed(&gp->link.next, b->first ? &b->first->link : NULL);
    b->first = gp;
    b->n++;
}

static g *pop(batch *b) {
    g *gp = b->first;
    qlink *next = load_relaxed(&gp->link.next);
    b->first = next ? containerof(next, g, link) : NULL;
    b->n--;
    __builtin_prefetch(b->first, 1); /* the next go() will write to it */
    return gp;
}

/* Adds a chunk; called without the lock, as it allocates. */
static bool grow(void) {
    g *chunk = aligned_alloc(CACHE_LINE, CHUNK_G * sizeof(g));
    if (!chunk) return false;
    mutex_lock(&slab_lock);
    uint32_t n = nchunks;
    if (n < MAX_CHUNKS && carved == n * CHUNK_G) { /* else another thread was quicker */
        store_release(&chunks[n], chunk);
        nchunks = n + 1;
        chunk = NULL;
    }
    mutex_unlock(&slab_lock);
    free(chunk);
    return n < MAX_CHUNKS;
}

/* A slot that was never used. Call with the lock. */
static g *carve(void) {
    if (carved == nchunks * CHUNK_G) return NULL;
    g *gp = load_relaxed(&chunks[carved / CHUNK_G]) + carved % CHUNK_G;
    memset(gp, 0, sizeof *gp);
    gp->index = carved++;
    gp->timer.index = -1;
    gp->parker.g = gp;
    store_release(&slots, carved); /* a reader of slots may look at it from now on */
    return gp;
}

/* Fills the empty batch at hand. false: memory is short. */
static bool refill(void) {
    batch *b = &cache.at_hand;
    if (cache.spare.n) {
        *b = cache.spare;
        cache.spare = (batch){0};
        return true;
    }
    for (;;) {
        mutex_lock(&slab_lock);
        if (batches) {
            *b = (batch){batches, batches->waiter.index};
            batches = b->first->waiter.val;
        } else
            for (g *gp; b->n < (cache.keeps ? BATCH : 1) && (gp = carve());) push(b, gp);
        mutex_unlock(&slab_lock);
        if (b->n) return true;
        if (!grow()) return false;
    }
}

static void give_back(batch *b) {
    if (!b->n) return;
    mutex_lock(&slab_lock);
    b->first->waiter.index = b->n;
    b->first->waiter.val = batches;
    batches = b->first;
    mutex_unlock(&slab_lock);
    *b = (batch){0};
}

g *g_alloc(void) {
    if (unlikely(!cache.at_hand.n) && !refill()) return NULL;
    g *gp = pop(&cache.at_hand);
    if (unlikely(!cache.keeps)) give_back(&cache.at_hand);
    store_relaxed(&gp->gen, load_relaxed(&gp->gen) + 1);
    store_relaxed(&gp->link.next, NULL);
    store_relaxed(&gp->m, NULL);
    store_relaxed(&gp->reason, WAIT_NONE);
    store_relaxed(&gp->cancel, false);
    gp->solo = gp->blocked = gp->latency = false;
    store_relaxed(&gp->ran_ns, 0);
    gp->host = gp->frame = NULL;
    return gp;
}

void g_free(g *gp) {
    assert(g_status(gp) == G_IDLE && gp->timer.index < 0);
    gp->host = NULL;
    if (cache.at_hand.n == BATCH) {
        give_back(&cache.spare);
        cache.spare = cache.at_hand;
        cache.at_hand = (batch){0};
    }
    push(&cache.at_hand, gp);
    if (unlikely(!cache.keeps)) give_back(&cache.at_hand);
}

void g_cache_begin(void) { cache.keeps = true; }

void g_cache_end(void) {
    cache.keeps = false;
    give_back(&cache.at_hand);
    give_back(&cache.spare);
}

/* The parent's g's: nobody runs them here, whoever wakes or cancels one. */
static void forget(g *gp) {
    store_relaxed(&gp->status, G_IDLE);
    gp->host = NULL;
    gp->host_lock = (mutex){0};
    gp->timer.index = -1; /* the frame stays: what it refers to must live as long as its greenlet */
    store_relaxed(&gp->parker.word, ((load_relaxed(&gp->parker.word) >> 2) + 1) << 2 | PARK_IDLE);
}

void g_after_fork(void) {
    slab_lock = (mutex){0};
    batches = NULL;
    for (uint32_t i = 0; i < g_slots(); i++)
        if (g_status(g_at(i)) != G_IDLE) forget(g_at(i));
}

uint32_t g_slots(void) { return load_acquire(&slots); }

g *g_at(uint32_t index) { return load_acquire(&chunks[index / CHUNK_G]) + index % CHUNK_G; }

g *g_lookup(uint64_t handle) {
    uint32_t index = (uint32_t)handle;
    if (index >= g_slots()) return NULL;
    g *gp = g_at(index);
    return load_acquire(&gp->gen) == handle >> 32 ? gp : NULL;
}
