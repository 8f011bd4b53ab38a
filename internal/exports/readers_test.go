package exports_test

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
)

// What other programs read of an export, where they are installed. With KITH_READERS, as
// in make test-readers, they must be, and DuckDB is built if there is none.

// without skips a test for want of a reader, or fails it where one was asked for.
func without(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("KITH_READERS") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// croaring compiles the reader of testdata, or skips.
func croaring(t *testing.T) string {
	t.Helper()
	cc, err := exec.LookPath("c++")
	if err != nil {
		without(t, "no C++ compiler: install g++ to read exports with CRoaring")
	}
	try := exec.Command(cc, "-x", "c++", "-", "-o", filepath.Join(t.TempDir(), "try"), "-lroaring")
	try.Stdin = strings.NewReader("#include <roaring/roaring.h>\nint main() {}\n")
	if out, err := try.CombinedOutput(); err != nil {
		first, _, _ := strings.Cut(string(out), "\n")
		without(t, "CRoaring is not installed (Debian: libroaring-dev): %s", first)
	}
	reader := filepath.Join(t.TempDir(), "read")
	if out, err := exec.Command(cc, "-O1", "-o", reader, "testdata/read.cpp", "-lroaring").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return reader
}

// printed are the numbers that the reader prints: how many, and each.
func printed(t *testing.T, reader, bits, file string) (n uint64, members []uint64) {
	t.Helper()
	out, err := exec.Command(reader, bits, file).Output()
	if err != nil {
		t.Fatalf("%s does not read %s: %v", reader, file, err)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for i := 0; lines.Scan(); i++ {
		v, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			n = v
			continue
		}
		members = append(members, v)
	}
	return n, members
}

// otherSets are of all kinds of containers: array, bitmap, run, at both ends.
func otherSets() []*roaring.Bitmap {
	mixed := someSet(1, 70_000)
	mixed.AddRange(1<<30, 1<<30+70_000)
	mixed.Add(1<<32 - 1)
	return []*roaring.Bitmap{mixed, roaring.New(), roaring.BitmapOf(0, 64, 128)}
}

func TestCRoaringReads(t *testing.T) {
	reader := croaring(t)
	sets := otherSets()
	dir := filepath.Join(t.TempDir(), "export")
	a := audience(proto.FormatRoaring, nil, sets...)
	a.Manifest.Dictionary = proto.FormatNone
	received(t, dir, written(t, a, nil, nil), false)
	var all []uint64
	for lane, set := range sets {
		n, got := printed(t, reader, "32", filepath.Join(dir, proto.SetName(proto.ContentSet, proto.LaneID(lane))))
		compareMembers(t, fmt.Sprint("lane ", lane), n, got, set.ToArray())
		for _, o := range set.ToArray() {
			all = append(all, uint64(lane)<<32|uint64(o))
		}
	}
	n, got := printed(t, reader, "64", filepath.Join(dir, proto.Sets64Name))
	compareMembers(t, "all lanes", n, got, all)
}

func compareMembers[T uint32 | uint64](t *testing.T, what string, n uint64, got []uint64, want []T) {
	t.Helper()
	if n != uint64(len(want)) || len(got) != len(want) {
		t.Fatalf("%s: CRoaring counts %d and lists %d, want %d", what, n, len(got), len(want))
	}
	for i := range want {
		if got[i] != uint64(want[i]) {
			t.Fatalf("%s: member %d is %d, want %d", what, i, got[i], want[i])
		}
	}
}

// duckdb gives the rows of a query, a head first, by what there is of DuckDB.
func duckdb(t *testing.T) func(query string) ([][]string, error) {
	t.Helper()
	command := []string{"duckdb", "-csv", "-c"}
	if _, err := exec.LookPath(command[0]); err != nil {
		if os.Getenv("KITH_READERS") == "" {
			t.Skip("duckdb is not on PATH: install its command line, or have it built by make test-readers, to read exports with it")
		}
		built := filepath.Join(t.TempDir(), "duckdb")
		build := exec.Command("go", "build", "-o", built, ".")
		build.Dir = "testdata/duckdb"
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("DuckDB is not built: %v\n%s", err, out)
		}
		command = []string{built}
	}
	return func(query string) ([][]string, error) {
		out, err := exec.Command(command[0], append(command[1:], query)...).Output()
		if err != nil {
			return nil, err
		}
		return csv.NewReader(bytes.NewReader(out)).ReadAll()
	}
}

func TestDuckDBReads(t *testing.T) {
	ask := duckdb(t)
	sets := []*roaring.Bitmap{someSet(1, members), someSet(2, 500)}
	for f, read := range map[proto.ExportFormat]string{
		proto.FormatParquet: "read_parquet('%s/audience-*.parquet')", proto.FormatCSV: "read_csv('%s/audience-*.csv')",
		proto.FormatNDJSON: "read_json('%s/audience-*.ndjson', format = 'newline_delimited')",
	} {
		dir := filepath.Join(t.TempDir(), "export")
		received(t, dir, written(t, audience(f, nil, sets...), nil, nil), false)
		query := "SELECT lane, ordinal, identity, kind FROM " + fmt.Sprintf(read, dir) + " ORDER BY lane, ordinal"
		rows, err := ask(query)
		if err != nil || len(rows) != 1+members+500 {
			t.Fatalf("%s: %d rows, %v", f, len(rows)-1, err)
		}
		rows = rows[1:]
		for lane, set := range sets {
			for _, o := range set.ToArray() {
				id := nameOf(proto.LaneID(lane), o)
				if got, want := strings.Join(rows[0], "|"), fmt.Sprintf("%d|%d|%s|%s", lane, o, id, id.Kind()); got != want {
					t.Fatalf("%s: %s, want %s", f, got, want)
				}
				rows = rows[1:]
			}
		}
	}
}
