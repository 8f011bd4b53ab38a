package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"kith/internal/bench"
)

// runBench runs the real command with real nodes and yardsticks, so small that
// its figures mean nothing.
func runBench(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	kith, err := exec.LookPath("kith") // testscript put this binary there
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), kith, append([]string{"bench", "--dir", t.TempDir()}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	if err != nil {
		t.Logf("it said:\n%s", said.String())
	}
	return out.Bytes(), err
}

func TestBench(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a dozen nodes")
	}
	dir := t.TempDir()
	out, err := runBench(t, "--json", "--quick", "--seconds", "0.1", "--rounds", "1", "--cpuprofile", dir+"/cpu",
		"--only", "ingest,nats,posts,bodies,pixel,openrtb,visible,lookup,batch,busy,links,optouts,flood,verdicts,actors,memory,cold,segments,backfill,exits,cluster,copy,start")
	if err != nil {
		t.Fatal(err)
	}
	var r bench.Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	rows := map[string]int{}
	for _, x := range r.Results {
		rows[x.Name]++
		if x.Ours <= 0 || x.Unit == "" || x.Work == "" || x.Yardstick != "" && x.Ratio <= 0 {
			t.Errorf("%s is not measured: %+v", x.Name, x)
		}
	}
	for _, name := range bench.Names() {
		if name != "audiences" && rows[name] == 0 {
			t.Errorf("%s has no result", name)
		}
	}
	if rows["batch"] != 2 || rows["bodies"] != 2 || rows["pixel"] != 2 || rows["flood"] != 4 || rows["links"] != 3 || rows["optouts"] != 4 || rows["memory"] != 2 || rows["segments"] != 4 || rows["cluster"] != 5 || rows["backfill"] != 2 {
		t.Errorf("results: %v", rows)
	}
	if st, err := os.Stat(dir + "/cpu.ingest.1"); err != nil || st.Size() == 0 {
		t.Errorf("the profile: %v", err)
	}
}

// Wrong usage is named before anything is started.
func TestBenchRefuses(t *testing.T) {
	for _, args := range [][]string{{"--only", "nothing"}, {"--seconds", "3600"}, {"--rounds", "-1"}, {"extra"}} {
		if out, err := runBench(t, args...); err == nil || exitCode(err) != exitUsage || len(out) > 0 {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	if _, err := runBench(t, "--only", "actors", "--dir", "/nowhere/at/all"); err == nil || exitCode(err) != exitFailed {
		t.Errorf("a folder that cannot be: %v", err)
	}
}
