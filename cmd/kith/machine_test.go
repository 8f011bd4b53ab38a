package main

import (
	"os"
	"path/filepath"
	"testing"
)

// A quota of the process's cgroup, or of one above it, is seen in both versions.
func TestProcessorQuota(t *testing.T) {
	for _, x := range []struct {
		name, self, file, quota string
		want                    bool
	}{
		{"none", "0::/system.slice/kith.service\n", "system.slice/kith.service/cpu.max", "max 100000\n", false},
		{"own", "0::/system.slice/kith.service\n", "system.slice/kith.service/cpu.max", "150000 100000\n", true},
		{"above", "0::/system.slice/kith.service\n", "system.slice/cpu.max", "150000 100000\n", true},
		{"container", "0::/\n", "cpu.max", "50000 100000\n", true},
		{"elsewhere", "0::/a\n", "b/cpu.max", "50000 100000\n", false},
		{"version 1", "4:memory:/x\n3:cpu,cpuacct:/x\n", "cpu,cpuacct/x/cpu.cfs_quota_us", "50000\n", true},
		{"version 1, none", "3:cpu,cpuacct:/x\n", "cpu/x/cpu.cfs_quota_us", "-1\n", false},
		{"not of processors", "4:memory:/x\n", "cpu/x/cpu.cfs_quota_us", "50000\n", false},
	} {
		dir := t.TempDir()
		self, file := filepath.Join(dir, "self"), filepath.Join(dir, "root", x.file)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(self, []byte(x.self), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(x.quota), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := processorQuota(self, filepath.Join(dir, "root")); got != x.want {
			t.Errorf("%s: %v", x.name, got)
		}
	}
	if processorQuota(filepath.Join(t.TempDir(), "none"), "/nowhere") {
		t.Error("there is a quota where nothing tells of cgroups")
	}
}
