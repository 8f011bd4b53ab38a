package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"kith/proto"
)

func made(t *testing.T, path ...string) string {
	t.Helper()
	name := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// The newest backup is the one whose name has the latest time; beside a file that was
// named otherwise it is not known.
func TestNewestBackup(t *testing.T) {
	dir := t.TempDir()
	if _, err := newestBackup(dir); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("of an empty directory: %v", err)
	}
	made(t, dir, "notes.txt")
	made(t, dir, "kith-20261130T010203.000Z.kithbackup")
	want := made(t, dir, "kith-20261201T000000.000Z.kithbackup")
	if got, err := newestBackup(dir); got != want || err != nil {
		t.Errorf("the newest is %s, %v; want %s", got, err, want)
	}
	other := made(t, dir, "pre-upgrade.kithbackup")
	if got, err := newestBackup(dir); proto.CodeOf(err) != proto.CodeInvalid || !strings.Contains(err.Error(), "pre-upgrade") {
		t.Errorf("beside a backup of another name it is %s, %v", got, err)
	}
	if got, err := newestBackup(other); got != other || err != nil {
		t.Errorf("by its name it is %s, %v", got, err)
	}
}

// A directory that --data names is not passed over for the one that kith.yaml names.
func TestDataBesideStoreDir(t *testing.T) {
	dir := t.TempDir()
	file := made(t, dir, "kith.yaml")
	store := filepath.Join(dir, "ssd", "store")
	if err := os.WriteFile(file, []byte("store_dir: "+store+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := &cobra.Command{}
	if c, err := offlineConfig(cmd, file, filepath.Join(dir, "data")); err != nil || c.StoreDir != store {
		t.Errorf("a data directory without a store: %q, %v", c.StoreDir, err)
	}
	made(t, dir, "data", "store", "KEYREGISTRY")
	if _, err := offlineConfig(cmd, file, filepath.Join(dir, "data")); err == nil || !strings.Contains(err.Error(), "store_dir") {
		t.Errorf("two stores: %v", err)
	}
	if c, err := offlineConfig(cmd, file, ""); err != nil || c.StoreDir != store {
		t.Errorf("without --data: %q, %v", c.StoreDir, err)
	}
}
