/* idle: what the scheduler's files share about idle M's and P's. Private to scheduler.c,
 * idle.c and life.c. */
#ifndef GMPY_IDLE_H
#define GMPY_IDLE_H

#include "scheduler.h"

enum { SPIN_LUCK = 16 /* spins in vain until an M stops spinning, mostly */ };

/* ---- under sched.lock */
void p_move(p *pp, uint32_t from, uint32_t to); /* the only way a P's status changes */
void pidle_list(p *pp, uint32_t from);          /* from: its status now */
void pidle_put(p *pp);
p *pidle_get(p *want); /* an idle P, `want` if that one is idle; NULL if none is */

/* ---- taking the lock themselves */
m *newm(p *pp, bool spinning);  /* pp == NULL: a solo M. NULL: no thread to be had */
void need_p(m *mp);             /* mp has a runnable g and, a moment ago, no P */
void stopm(m *mp);              /* releases the P; returns with one, or stopping */
void serve_token(m *mp, m *to); /* hands mp's P to the M whose token was dequeued */

/* The g on mp, for traces. Its own M, or while that can't change it. */
static inline uint64_t cur_id(m *mp) {
    g *gp = load_relaxed(&mp->cur);
    return gp ? gp->id : 0;
}

void check_last(void); /* tells a draining host when nothing lives any more */

/* sched_stop waits until no visitor is left: for threads that make an M which it has to
 * join, and for plain threads that are still inside a wake-up when the g that they woke, its
 * M and everybody else have already ended. */
static inline void visit(void) { atomic_fetch_add(&S.visitors, 1); }
static inline void visit_end(void) { atomic_fetch_sub(&S.visitors, 1); }

#endif
