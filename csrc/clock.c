#include "clock.h"

#include <stdio.h>
#include <string.h>

enum { CLOCK_RECORDS = 64 };
static const int64_t BASELINE = 20 * MILLISECOND, INTERVAL = 1 * SECOND, ODD = 100 * MICROSECOND;

_Atomic(clock_record *) clock_now_record;

#ifdef __x86_64__
static clock_record records[CLOCK_RECORDS];
static uint32_t next_record;
static clock_record first, last; /* pairs noted: the first ever and the latest */
static enum { UNKNOWN, USABLE, UNUSABLE } counter;

/* The kernel has checked that the counter is steady, and the same on all CPUs, if it keeps
 * its own time by it. */
static bool kernel_uses_tsc(void) {
    char name[16] = "";
    FILE *f = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
    if (!f) return false;
    bool yes = fgets(name, sizeof name, f) && strcmp(name, "tsc\n") == 0;
    fclose(f);
    return yes;
}

/* A pair read closely together: the best of a few, as an interrupt may come in between. */
static clock_record read_pair(void) {
    clock_record best = {0, 0, 0};
    uint64_t width = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        uint64_t before = __builtin_ia32_rdtsc();
        int64_t ns = clock_kernel();
        uint64_t after = __builtin_ia32_rdtsc();
        if (after - before >= width) continue;
        width = after - before;
        best = (clock_record){before + width / 2, ns, 0};
    }
    return best;
}

void clock_sync(void) {
    if (counter == UNKNOWN) counter = kernel_uses_tsc() ? USABLE : UNUSABLE;
    if (counter == UNUSABLE) return;
    if (last.ns && clock_kernel() - last.ns < (load_relaxed(&clock_now_record) ? INTERVAL : BASELINE)) return;
    clock_record pair = read_pair();
    if (!last.ns) {
        first = last = pair;
        return;
    }
    clock_record *r = load_relaxed(&clock_now_record);
    if (r) {
        /* The counter jumped (a moved virtual machine, a suspend): begin again. */
        int64_t off = nanotime() - clock_kernel();
        if (off > ODD || off < -ODD) {
            store_release(&clock_now_record, NULL);
            first = last = pair;
            return;
        }
    }
    pair.mult = (uint64_t)(((unsigned __int128)(pair.ns - first.ns) << 32) / (pair.tsc - first.tsc));
    last = pair;
    clock_record *slot = &records[next_record++ % CLOCK_RECORDS];
    *slot = pair;
    store_release(&clock_now_record, slot);
}
#else
void clock_sync(void) {}
#endif
