/* g.c: the slab of g's.
 *
 * Chunks are added, never moved or freed: a g's address and index are for life. Each is
 * handed out from its start, so that memory nobody needs is never touched. (Huge pages for
 * it, for the frames and for the heap were tried: fewer page faults, but where free memory
 * has gone back to a hypervisor, clearing them took three times as long: 16 us a G.) Free
 * g's wait in a list under a lock, with a small cache per thread in front of it, so that
 * the usual go() and end touch no shared line. */
#include "g.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_G = 8192, MAX_CHUNKS = 1 << 14, CACHE_G = 64 };

static _Atomic(g *) chunks[MAX_CHUNKS];
static _Atomic uint32_t slots; /* == carved, for readers without the lock */
static uint32_t carved, nchunks;
static mutex slab_lock;
static g *free_list;

/* Of M's only (max > 0): other threads come and go, and nobody tells when they end. */
static _Thread_local struct {
    g *head;
    int n, max;
} cache;

static inline g *next_free(g *gp) {
    qlink *l = load_relaxed(&gp->link.next);
    return l ? containerof(l, g, link) : NULL;
}

static inline void set_next_free(g *gp, g *next) { store_relaxed(&gp->link.next, next ? &next->link : NULL); }

/* Adds a chunk; called without the lock, as it allocates. */
static bool grow(void) {
    g *chunk = malloc(CHUNK_G * sizeof(g));
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

static bool refill(void) {
    for (;;) {
        mutex_lock(&slab_lock);
        while (cache.n <= cache.max / 2) {
            g *gp = free_list;
            if (gp)
                free_list = next_free(gp);
            else if (!(gp = carve()))
                break;
            set_next_free(gp, cache.head);
            cache.head = gp;
            cache.n++;
        }
        mutex_unlock(&slab_lock);
        if (cache.n) return true;
        if (!grow()) return false;
    }
}

g *g_alloc(void) {
    if (unlikely(!cache.head) && !refill()) return NULL;
    g *gp = cache.head;
    cache.head = next_free(gp);
    cache.n--;
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

static void give_back(int keep) {
    mutex_lock(&slab_lock);
    while (cache.n > keep) {
        g *spare = cache.head;
        cache.head = next_free(spare);
        cache.n--;
        set_next_free(spare, free_list);
        free_list = spare;
    }
    mutex_unlock(&slab_lock);
}

void g_free(g *gp) {
    assert(g_status(gp) == G_IDLE && gp->timer.index < 0);
    gp->host = NULL;
    set_next_free(gp, cache.head);
    cache.head = gp;
    if (++cache.n > cache.max) give_back(cache.max / 2);
}

void g_cache_begin(void) { cache.max = CACHE_G; }

void g_cache_end(void) {
    cache.max = 0;
    give_back(0);
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
    free_list = NULL;
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
