/* idle: what the scheduler's files share about idle M's and P's. Private to scheduler.c,
 * idle.c, life.c and sysmon.c. */
#ifndef GMPY_IDLE_H
#define GMPY_IDLE_H

#include "scheduler.h"

enum { SPIN_LUCK = 16 /* spins in vain until an M stops spinning, mostly */ };
/* M's that run have left events alone for so long: an M without a P polls. */
static const int64_t POLLER_AFTER = 500 * MICROSECOND;

/* ---- under sched.lock */
void p_move(p *pp, uint32_t from, uint32_t to); /* the only way a P's status changes */
void pidle_list(p *pp, uint32_t from);          /* from: its status now */
void pidle_put(p *pp);
/* An idle P for that class: `want` if that one is idle, reserved ones first for the latency
 * class. NULL if none is. */
p *pidle_get(p *want, bool latency);

/* ---- taking the lock themselves */
m *newm(p *pp, bool spinning, bool latency); /* pp == NULL: a solo M. NULL: no thread to be had */
void need_p(m *mp);                          /* mp has a runnable g and, a moment ago, no P */
/* Releases the P; returns with one, or stopping. leave: there is work that it could do, for
 * others; else it is for mp's like, and they looked. */
void stopm(m *mp, bool leave);
/* Is there a g that could run, though every P is idle? rescue: then somebody runs it. See sysmon.c. */
bool sched_left_behind(bool rescue);
void serve_token(m *mp, m *to); /* hands mp's P to the M whose token was dequeued */

void give_away(p *pp); /* what waits in its runq, to all; the caller owns it */

/* Who looks for work of mp's class, awake, so that a submitter needn't wake anybody. */
static inline _Atomic uint32_t *spinners(m *mp) { return mp->latency ? &S.nspinningl : &S.nspinning; }
/* The g on mp, for traces. Its own M, or while that can't change it. */
static inline uint64_t cur_id(m *mp) {
    g *gp = load_relaxed(&mp->cur);
    return gp ? gp->id : 0;
}

/* A plain thread makes a g: counts it, unless the run ends (false). The runtime stays until
 * count_outside_end. */
bool count_outside(void);
void count_outside_end(void);
void check_last(void); /* tells a draining host when nothing lives any more */
/* Tells the host when every g waits and nothing can wake one. Not only M's that stop look: who has
 * woken a g and holds no P does it too. That g may have parked for good while its waker still
 * counted as one who could wake somebody, and its M looked in vain. */
void check_deadlock(void);

/* sched_stop waits until no visitor is left: for threads that make an M which it has to
 * join, and for plain threads that are still inside a wake-up when the g that they woke, its
 * M and everybody else have already ended. */
static inline void visit(void) { atomic_fetch_add(&S.visitors, 1); }
void visit_end(void);

#endif
