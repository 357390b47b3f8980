/* Answers for the cpuid instructions of a library in which `int3; nop` stands in their place: what this processor says,
   without AVX512, AVX-VNNI and AMX. Built and used by benches/without_vnni.py. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned leaf = registers[REG_RAX], sub = registers[REG_RCX], a, b, c, d;
    __cpuid_count(leaf, sub, a, b, c, d);
    if (leaf == 7 && sub == 0) {
        /* avx512: f, dq, ifma, pf, er, cd, bw, vl */
        b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
        /* avx512: vbmi, vbmi2, vnni, bitalg, vpopcntdq */
        c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
        /* avx512: 4vnniw, 4fmaps, vp2intersect, fp16; amx: bf16, tile, int8 */
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 23 | 1u << 22 | 1u << 24 | 1u << 25);
    } else if (leaf == 7 && sub == 1) {
        a &= ~(1u << 4 | 1u << 5);                        /* avx-vnni, avx512-bf16 */
        d &= ~(1u << 4 | 1u << 5 | 1u << 10 | 1u << 19); /* avx-vnni-int8, avx-ne-convert, avx-vnni-int16, avx10 */
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 1; /* past the nop */
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, 0);
}
