package main

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kith/engine"
	"kith/proto"
)

func newRestoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore DIR",
		Short: "Make a data directory from the newest backup in DIR, or from a file",
		Long: `Makes a new data directory from the newest backup in DIR, which may also be a single
backup's file. No node may run on the new directory. The log that follows the backup is
not in it: what was sent later must be sent again. If it fails or is interrupted, no
node serves the directory: remove it and restore again.

Whoever opted out after the backup was made must stay out: --ledger names a file of
kith optouts export, or the data directory that was lost if it can still be read; of
a cluster it must be a file, since no node alone has all. If neither is left,
--accept-lost-optouts gives those opt-outs up.
It restores with the embedded log: nats.url must not be set.

With cluster.listen in the configuration the directory is for a node of a new
cluster: restore the same backup on each of its nodes, with the same secret_file,
ledger and --lanes, then start them. Nodes that come later need no backup.

With --lanes the directory has another number of lanes than the backup, which is
then to be that of the configuration (lanes). More lanes use more cores and disks.`,
		Example: "  kith restore /backups --ledger /backups/optouts.ledger --data ./kith-data\n" +
			"  kith restore /backups/kith-20261122T093000.000Z.kithbackup --ledger ./old-data --data ./kith-data\n" +
			"  kith restore /backups --lanes 4 --ledger /backups/optouts.ledger --data ./kith-data",
		Args: exactly(1, "a directory with backups, or one backup"),
	}
	data := namingFlag(cmd, "data", "data `DIR`ectory to make (default ./kith-data)")
	file := namingFlag(cmd, "config", "configuration `FILE` of the node")
	ledger := namingFlag(cmd, "ledger", "`PATH` of the newest ledger of opt-outs: a file of kith optouts export, or the data directory of a node alone")
	lost := cmd.Flags().Bool("accept-lost-optouts", false, "restore without a ledger: opt-outs since the backup are given up")
	lanes := cmd.Flags().Int("lanes", 0, "`NUMBER` of lanes that the directory is to have, 1 to 64 (default as the backup)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *ledger != "" && *lost {
			return usagef("with a ledger no opt-out is lost: leave out --accept-lost-optouts")
		}
		if cmd.Flags().Changed("lanes") && (*lanes < 1 || *lanes > proto.LanesMax) {
			return usagef("--lanes is %d: use 1 to %d", *lanes, proto.LanesMax)
		}
		ec, err := offlineConfig(cmd, *file, *data)
		if err != nil {
			return err
		}
		ec.Ledger, ec.AcceptLostOptOuts, ec.RestoreLanes = *ledger, *lost, *lanes
		path, err := newestBackup(args[0])
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return proto.Errorf(proto.CodeNotFound, "cannot read the backup (%w)", err)
		}
		defer f.Close()
		if err := engine.Restore(cmd.Context(), ec, f); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, map[string]string{"file": path, "data": ec.Dir})
		}
		verify := "kith verify --data " + ec.Dir
		if *file != "" {
			verify += " --config " + *file
		}
		printf(cmd, "restored %s from %s; next: %s, then kith serve\n", ec.Dir, path, verify)
		if ec.StoreDir != "" || ec.LogDir != "" {
			printf(cmd, "its store is %s, its log %s, as the configuration says\n", cmp.Or(ec.StoreDir, filepath.Join(ec.Dir, "store")), cmp.Or(ec.LogDir, filepath.Join(ec.Dir, "log")))
		}
		if *lanes > 0 {
			printf(cmd, "it has %d lanes: the configuration must say so (lanes: %d)\n", *lanes, *lanes)
		}
		return nil
	}
	return cmd
}

// offlineConfig is the engine's configuration for work without a node.
func offlineConfig(cmd *cobra.Command, file, data string) (engine.Config, error) {
	c, err := configOf(file)
	if err != nil {
		return engine.Config{}, err
	}
	c.Data = cmp.Or(data, c.Data)
	for _, x := range []struct{ name, is, dir string }{{"store_dir", c.StoreDir, "store"}, {"log_dir", c.LogDir, "log"}} {
		other := filepath.Join(c.Data, x.dir)
		if found, err := os.Stat(other); data != "" && x.is != "" && err == nil {
			if named, err := os.Stat(x.is); err == nil && os.SameFile(found, named) {
				continue
			}
			return engine.Config{}, usagef("%s names %s, and %s is there too: leave out --data for the one, or give a file without %s for the other", x.name, x.is, other, x.name)
		}
	}
	log, err := newLogger(cmd.ErrOrStderr(), "warn", "text")
	if err != nil {
		return engine.Config{}, err
	}
	ec, err := engineConfig(c, log)
	ec.ForCluster = c.Cluster.Listen != ""
	return ec, err
}

// newestBackup is path itself if it is a file, else the newest backup in it by its name,
// which must be the one that it was given when it was made.
func newestBackup(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", proto.Errorf(proto.CodeNotFound, "cannot read the backup (%w)", err)
	}
	if !info.IsDir() {
		return path, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", proto.Errorf(proto.CodeNotFound, "cannot read the backups (%w)", err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !strings.HasSuffix(e.Name(), backupSuffix) })
	if len(entries) == 0 {
		return "", proto.Errorf(proto.CodeNotFound, "%s holds no backup (*%s): name the directory that was given to kith backup", path, backupSuffix)
	}
	for _, e := range entries {
		if _, err := time.Parse(backupName, e.Name()); err != nil {
			return "", proto.Errorf(proto.CodeInvalid, "which backup in %s is the newest is not known: %s does not have the name that kith backup gives; name the file to restore", path, e.Name())
		}
	}
	return filepath.Join(path, entries[len(entries)-1].Name()), nil
}
