/* SPDX-License-Identifier: Apache-2.0 */
/* The last 4 KB of the ROM, where a processor begins: from real to long mode, then to the program.
 *
 * The ROM ends at 4 GB. The program is copied from its start to 1 MB, for which it is linked. All 4 GB are mapped to
 * themselves. Interrupts stay off: there is nothing that would answer them.
 */
#define ROM 0xffe00000
#define STUB 0xfffff000
#define PROGRAM 0x100000
#define PML4 0x1000
#define PDPT 0x2000
#define PD 0x3000

    .code16
real:
    cli
    lgdtl %cs:(table - real + 0xf000)
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $0x08, $protected

    .code32
protected:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    cld
    mov $ROM, %esi
    mov $PROGRAM, %edi
    mov $(STUB - ROM) / 4, %ecx
    rep movsl

    mov $PML4, %edi
    xor %eax, %eax
    mov $(PD - PML4) / 4, %ecx
    rep stosl
    movl $PDPT + 3, PML4
    movl $PD + 3, PDPT
    movl $PD + 0x1003, PDPT + 8
    movl $PD + 0x2003, PDPT + 16
    movl $PD + 0x3003, PDPT + 24
    mov $0x83, %eax /* present, writable, 2 MB */
    mov $2048, %ecx
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $8, %edi
    add $0x200000, %eax
    loop 1b

    mov $PML4, %eax
    mov %eax, %cr3
    mov $0x40620, %eax /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
    mov %eax, %cr4
    mov $0xc0000080, %ecx /* EFER: long mode */
    rdmsr
    or $0x100, %eax
    wrmsr
    mov $0x80000003, %eax /* paging, coprocessor, protection */
    mov %eax, %cr0
    ljmp $0x18, $PROGRAM

    .align 8
segments:
    .quad 0
    .quad 0x00cf9a000000ffff /* code of 32 bits */
    .quad 0x00cf92000000ffff /* data */
    .quad 0x00af9a000000ffff /* code of 64 bits */
table:
    .word 31
    .long segments

    .org 0xff0 /* the reset vector: 0xfffffff0 */
    .code16
    jmp real
    .org 0x1000
