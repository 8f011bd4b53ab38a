package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kith/internal/bench"
	"kith/internal/config"
)

func newBenchCommand() *cobra.Command {
	var c bench.Config
	var seconds float64
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure kith and its yardsticks on this machine",
		Long: `Starts what it needs in a temporary folder, measures kith and what it is compared
with in turn, and prints a table of ratios. Every node and yardstick is a process
of its own on loopback; this process makes the load. All of it takes about a
quarter of an hour and four gigabytes of disk; --only takes less. Redis is beside
it when redis-server is on the PATH, PostgreSQL when initdb, postgres and psql
are there or in /usr/lib/postgresql; it runs in a temporary folder, synced.`,
		Example: "  kith bench\n  kith bench --only ingest,lookup --seconds 5 --json\n  kith bench --quick --dir /mnt/fast",
		Args:    noArgs,
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&c.Only, "only", nil, "measurements to make: "+strings.Join(bench.Names(), ", "))
	fl.Float64Var(&seconds, "seconds", 3, "how long each sample takes")
	fl.IntVar(&c.Rounds, "rounds", 3, "samples of each side; their medians count")
	fl.BoolVar(&c.Quick, "quick", false, "big populations of a quarter of the size, and rates of a quarter beside them")
	fl.StringVar(&c.Dir, "dir", "", "make the temporary folder in this `DIR`ectory")
	fl.StringVar(&c.Profile, "cpuprofile", "", "write the node's processor profiles to `FILE`.MEASUREMENT.NUMBER")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c.Self, c.Time, c.Progress = []string{self, "bench"}, time.Duration(seconds*float64(time.Second)), cmd.ErrOrStderr()
		if err := c.Validate(); err != nil {
			return usageError{err}
		}
		report, err := bench.Run(cmd.Context(), c)
		if len(report.Results) == 0 && err != nil {
			return err
		}
		write := func() error { return report.Write(cmd.OutOrStdout()) }
		if *asJSON {
			write = func() error { return printJSON(cmd, report) }
		}
		if e := write(); err == nil {
			err = e
		}
		return err
	}
	cmd.AddCommand(newBenchNodeCommand(), newBenchYardstickCommand())
	return cmd
}

// newBenchNodeCommand is the node that bench starts: serve --dev, on free
// ports, until its standard input ends.
func newBenchNodeCommand() *cobra.Command {
	c := config.Default()
	cmd := &cobra.Command{
		Use:     "node",
		Short:   "A node for bench, which starts it",
		Example: "  kith bench node --data DIR < /dev/null",
		Hidden:  true,
		Args:    noArgs,
	}
	c.Public, c.Service = "127.0.0.1:0", "127.0.0.1:0"
	cmd.Flags().StringVar(&c.Data, "data", "", "data `DIR`ectory")
	cmd.Flags().IntVar(&c.ActiveMax, "active-max", c.ActiveMax, "bound of active identities")
	cmd.Flags().StringVar(&c.NATS.Listen, "nats-listen", "", "`ADDR`ess for NATS clients")
	cmd.Flags().IntVar(&c.Limits.RateOptOutsMax, "rate-optouts-max", 0, "identities that a client has opted out per second; 0: no limit")
	cmd.Flags().StringVar(&c.Limits.AddressHeader, "address-header", "", "`HEADER` with the visitor's address")
	cmd.Flags().StringVar(&c.Node, "name", c.Node, "the node's `NAME`")
	cmd.Flags().StringVar(&c.Cluster.Listen, "cluster", "", "`ADDR`ess for the others of a cluster")
	cmd.Flags().StringSliceVar(&c.Cluster.Join, "join", nil, "their `ADDR`esses")
	cmd.Flags().IntVar(&c.Lanes, "lanes", c.Lanes, "log streams")
	cmd.Flags().DurationVar((*time.Duration)(&c.LogRetention), "log-retention", time.Duration(c.LogRetention), "how long applied entries stay in the log")
	var f serveFlags
	cmd.Flags().BoolVar(&f.passOn, "pass-on", false, "have another node answer all questions")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c.UseDev()
		if err := c.Validate(); err != nil {
			return err
		}
		return untilEOF(cmd, func(ctx context.Context) error {
			return serve(ctx, c, f, cmd.OutOrStdout(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})))
		})
	}
	return cmd
}

// untilEOF runs what bench started until standard input, which bench holds,
// ends; lines on it are obeyed.
func untilEOF(cmd *cobra.Command, run func(context.Context) error) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	var in io.Reader = cmd.InOrStdin()
	go func() { // ends with the process at the latest: it waits for standard input
		bench.Obey(in, cmd.OutOrStdout(), nil)
		cancel()
	}()
	return run(ctx)
}

func newBenchYardstickCommand() *cobra.Command {
	var dir, file string
	cmd := &cobra.Command{
		Use:     "yardstick NAME",
		Short:   "What bench compares with, which starts it: pipeline, discard, echo, picture, answers, town",
		Example: "  kith bench yardstick discard < /dev/null",
		Hidden:  true,
		Args:    exactly(1, "the name of a yardstick"),
	}
	cmd.Flags().StringVar(&dir, "dir", "", "data `DIR`ectory of pipeline")
	cmd.Flags().StringVar(&file, "file", "", "`FILE` of answers or of a town")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		useProcessors() // as a node does
		if args[0] == "pipeline" {
			return bench.ServePipeline(dir, cmd.InOrStdin(), cmd.OutOrStdout())
		}
		return bench.ServeYardstick(args[0], file, cmd.InOrStdin(), cmd.OutOrStdout())
	}
	return cmd
}
