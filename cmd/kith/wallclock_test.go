package main

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// wallClock is the wall clock of one process, which can be stepped. The kernel has
// no such thing: its namespaces of time leave the wall clock alone. So the code by
// which the process reads it, which the kernel maps into each, gets something to
// add. All of the process is told so, its log's server and its store too.
type wallClock struct {
	memory *os.File
	step   int64 // address of seconds to add
}

// stepCode answers clock_gettime by the system call, and adds seconds, which are
// stepCodeData bytes after its beginning, if the clock is the wall clock (0).
var stepCode = []byte{
	0xb8, 0xe4, 0, 0, 0, // mov eax, 228
	0x0f, 0x05, // syscall
	0x85, 0xc0, 0x75, 0x0e, // if eax != 0 return
	0x85, 0xff, 0x75, 0x0a, // if edi != 0 return
	0x48, 0x8b, 0x0d, 0x2a, 0, 0, 0, // mov rcx, [rip+42]
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3, // return
}

const (
	stepCodeData = 64
	stepCodeSize = stepCodeData + 8
)

// takeWallClock makes the wall clock of a process that was just started one that
// can be stepped, or skips the test where it cannot.
func takeWallClock(t *testing.T, pid int) *wallClock {
	t.Helper()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skipf("the wall clock of a process is stepped by machine code, of which there is none for %s on %s", runtime.GOOS, runtime.GOARCH)
	}
	first, size, err := vdsoOf(pid)
	if err != nil {
		t.Skipf("the process reads its clock in another way: %v", err)
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		t.Skipf("the memory of another process cannot be written here: %v", err)
	}
	t.Cleanup(func() { memory.Close() })
	image := make([]byte, size)
	if _, err := memory.ReadAt(image, first); err != nil {
		t.Skipf("the code by which the process reads its clock cannot be read: %v", err)
	}
	from, err := clockGettime(image)
	if err != nil {
		t.Skipf("the process reads its clock in another way: %v", err)
	}
	// The end of the last page is empty.
	to := len(image) - 2*stepCodeSize
	if !bytes.Equal(image[to:], make([]byte, 2*stepCodeSize)) {
		t.Skip("there is no room for the code that steps the clock")
	}
	to = (to + 15) &^ 15
	jump := append([]byte{0xe9}, binary.LittleEndian.AppendUint32(nil, uint32(to-from-5))...)
	jump = append(jump, image[from+len(jump):from+8]...) // eight bytes are written at once
	for _, x := range []struct {
		at   int
		code []byte
	}{{to, stepCode}, {from, jump}} {
		if _, err := memory.WriteAt(x.code, first+int64(x.at)); err != nil {
			t.Skipf("the code by which the process reads its clock cannot be written here: %v", err)
		}
	}
	return &wallClock{memory, first + int64(to) + stepCodeData}
}

// set makes the process's wall clock be so far ahead of the machine's; whole
// seconds.
func (w *wallClock) set(t *testing.T, by time.Duration) {
	t.Helper()
	if _, err := w.memory.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(int64(by/time.Second))), w.step); err != nil {
		t.Fatalf("step the clock: %v", err)
	}
}

// vdsoOf is where the kernel's code is mapped into a process.
func vdsoOf(pid int) (first int64, size int, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if !strings.HasSuffix(lines.Text(), "[vdso]") {
			continue
		}
		var last int64
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &first, &last); err != nil {
			return 0, 0, err
		}
		return first, int(last - first), nil
	}
	return 0, 0, fmt.Errorf("nothing is mapped as [vdso]")
}

// clockGettime is where the kernel's code for clock_gettime begins.
func clockGettime(image []byte) (int, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, err
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && s.Value+8 < uint64(len(image)) {
			return int(s.Value), nil
		}
	}
	return 0, fmt.Errorf("[vdso] has no __vdso_clock_gettime")
}
