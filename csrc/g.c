/* g.c: the slab of g's.
 *
 * Chunks double in number only, never move: a g's address and index are for life. Free
 * g's wait in a list under a lock, with a small cache per thread in front of it, so that
 * the usual go() and end touch no shared line. */
#include "g.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_G = 1024, MAX_CHUNKS = 1 << 16, CACHE_G = 64 };

static _Atomic(g *) chunks[MAX_CHUNKS];
static _Atomic uint32_t slots;
static mutex slab_lock;
static g *free_list;

static _Thread_local struct {
    g *head;
    int n;
} cache;

static inline g *next_free(g *gp) {
    qlink *l = load_relaxed(&gp->link.next);
    return l ? containerof(l, g, link) : NULL;
}

static inline void set_next_free(g *gp, g *next) { store_relaxed(&gp->link.next, next ? &next->link : NULL); }

/* Adds a chunk to the free list; called without the lock, as it allocates. */
static bool grow(void) {
    g *chunk = calloc(CHUNK_G, sizeof(g));
    if (!chunk) return false;
    mutex_lock(&slab_lock);
    uint32_t base = load_relaxed(&slots);
    if (base / CHUNK_G >= MAX_CHUNKS) {
        mutex_unlock(&slab_lock);
        free(chunk);
        return false;
    }
    for (uint32_t i = CHUNK_G; i-- > 0;) {
        chunk[i].index = base + i;
        chunk[i].timer.index = -1;
        chunk[i].parker.g = &chunk[i];
        set_next_free(&chunk[i], free_list);
        free_list = &chunk[i];
    }
    store_release(&chunks[base / CHUNK_G], chunk);
    store_release(&slots, base + CHUNK_G);
    mutex_unlock(&slab_lock);
    return true;
}

static bool refill(void) {
    for (;;) {
        mutex_lock(&slab_lock);
        while (free_list && cache.n < CACHE_G / 2) {
            g *gp = free_list;
            free_list = next_free(gp);
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
    gp->solo = false;
    gp->shield = 0;
    gp->host = gp->frame = NULL;
    return gp;
}

void g_free(g *gp) {
    assert(g_status(gp) == G_IDLE && gp->timer.index < 0);
    gp->host = NULL;
    set_next_free(gp, cache.head);
    cache.head = gp;
    if (++cache.n <= CACHE_G) return;
    mutex_lock(&slab_lock);
    while (cache.n > CACHE_G / 2) {
        g *spare = cache.head;
        cache.head = next_free(spare);
        cache.n--;
        set_next_free(spare, free_list);
        free_list = spare;
    }
    mutex_unlock(&slab_lock);
}

uint32_t g_slots(void) { return load_acquire(&slots); }

g *g_at(uint32_t index) { return load_acquire(&chunks[index / CHUNK_G]) + index % CHUNK_G; }

g *g_lookup(uint64_t handle) {
    uint32_t index = (uint32_t)handle;
    if (index >= g_slots()) return NULL;
    g *gp = g_at(index);
    return load_acquire(&gp->gen) == handle >> 32 ? gp : NULL;
}
