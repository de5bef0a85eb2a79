/* uml-registers.c: lets user-mode Linux run on processors whose register file is larger than it knows.
 *
 * UML of kernel 6.1 keeps 2,696 bytes of a process's extended registers. A kernel of a processor with AMX has 11,008
 * of them and takes PTRACE_SETREGSET only for all at once (arch/x86/kernel/fpu/regset.c, xstateregs_set), so UML ends
 * at its first program with "ptrace set fp regs failed, errno = 14". Preloaded (LD_PRELOAD), this puts what UML gives
 * in front of what the processor has. Components beyond UML's part are marked as unused: no program inside UML has
 * them, since none was given them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

/* Intel's manual, volume 1, 13.4.2: which components the area holds. */
#define IN_USE_AT 512
/* Components 0 to 9, PKRU the last, lie below 2,696 in the standard format; AMX's are 17 and 18. */
#define KNOWN_TO_UML ((UINT64_C(1) << 10) - 1)

/* Not on the stack: UML calls from its kernel stacks, which are as small as this. It has one thread that traces. */
static unsigned char whole[65536];
static long (*next)(int request, ...);

__attribute__((constructor)) static void find_next(void)
{
    next = (long (*)(int, ...))dlsym(RTLD_NEXT, "ptrace");
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list list;
    va_start(list, request);
    int process = va_arg(list, int);
    void *address = va_arg(list, void *);
    void *data = va_arg(list, void *);
    va_end(list);

    long answer = next(request, process, address, data);
    if (answer == 0 || request != PTRACE_SETREGSET || (uintptr_t)address != NT_X86_XSTATE || errno != EFAULT)
        return answer;

    struct iovec *given = data, all = {whole, sizeof whole};
    if (next(PTRACE_GETREGSET, process, address, &all) || all.iov_len <= given->iov_len) {
        errno = EFAULT;
        return -1;
    }
    memcpy(whole, given->iov_base, given->iov_len);
    uint64_t in_use;
    memcpy(&in_use, whole + IN_USE_AT, sizeof in_use);
    in_use &= KNOWN_TO_UML;
    memcpy(whole + IN_USE_AT, &in_use, sizeof in_use);
    return next(PTRACE_SETREGSET, process, address, &all);
}
