package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newClusterCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "cluster",
		Short:   "The nodes of a cluster (admin)",
		Example: "  kith cluster status --key dev-admin-key\n  kith cluster drain n2 --key dev-admin-key",
	})
	cmd.AddCommand(newClusterStatusCommand(c), newClusterDrainCommand(c), newClusterMoveCommand(c), newClusterForgetCommand(c))
	return cmd
}

func newClusterStatusCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the nodes, who answers for which lane and who owns it, and who keeps the log",
		Long: `Shows the nodes as the one that is asked knows them, with what they say of
themselves within a second: how far each lane's time is back (2 s are usual), and for
how long the node may go on answering without news from the log.`,
		Example: "  kith cluster status --key dev-admin-key --json",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var s proto.ClusterStatus
		if err := c.call(cmd.Context(), http.MethodGet, "/v1/cluster", nil, nil, &s); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, s)
		}
		return printCluster(cmd, s)
	}
	return cmd
}

func printCluster(cmd *cobra.Command, s proto.ClusterStatus) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tSTATE\tOWNS\tANSWERS FOR\tLAG\tLEASE")
	for _, n := range s.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.Name, stateOf(n), laneList(n.Owns), laneList(n.Lanes), lagAndLease(n.States))
	}
	fmt.Fprintln(w, "\t\t\t\t\t\nSTREAM\tLEADER\tOTHERS\t\t\t")
	for _, x := range s.Log {
		leader := x.Leader
		if leader == "" {
			leader = "none"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t\t\t\n", x.Stream, leader, keepers(x))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var lanes []proto.LaneID
	for id := range s.Placed {
		lanes = append(lanes, id)
	}
	slices.Sort(lanes)
	for _, id := range lanes {
		printf(cmd, "lane %d was moved to %s by hand\n", id, s.Placed[id])
	}
	return nil
}

// keepers are the nodes that keep a stream without leading it.
func keepers(x proto.StreamStatus) string {
	var list []string
	for _, o := range x.Others {
		switch {
		case o.Current:
			list = append(list, o.Node)
		case o.Lag == 0:
			list = append(list, o.Node+" (behind or away)")
		default:
			list = append(list, fmt.Sprintf("%s (behind by %d)", o.Node, o.Lag))
		}
	}
	if x.Missing > 0 {
		list = append(list, fmt.Sprintf("%d missing", x.Missing))
	}
	return dashIfNone(strings.Join(list, ", "))
}

func stateOf(n proto.NodeStatus) string {
	switch {
	case n.Draining:
		return "draining"
	case n.Ready && n.Why == "":
		return "ready"
	case n.Why != "":
		return "not ready: " + n.Why
	}
	return "not ready"
}

func laneList(lanes []int) string {
	var list []string
	for i := 0; i < len(lanes); i++ {
		first := i
		for i+1 < len(lanes) && lanes[i+1] == lanes[i]+1 {
			i++
		}
		switch i - first {
		case 0:
			list = append(list, strconv.Itoa(lanes[i]))
		default:
			list = append(list, fmt.Sprintf("%d-%d", lanes[first], lanes[i]))
		}
	}
	return dashIfNone(strings.Join(list, ","))
}

func dashIfNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// lagAndLease are the worst of a node's lanes.
func lagAndLease(list []proto.LaneState) string {
	if len(list) == 0 {
		return "-\t-"
	}
	lag, lease := 0.0, list[0].LeaseSeconds
	for _, l := range list {
		lag, lease = max(lag, l.LagSeconds), min(lease, l.LeaseSeconds)
	}
	if lease < 0 {
		return fmt.Sprintf("%.1f s\tneeds none", lag)
	}
	return fmt.Sprintf("%.1f s\t%.0f s", lag, lease)
}

func newClusterDrainCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Have other nodes take over from one, before it is stopped",
		Long: `Has the other nodes take over what NODE owns, and NODE say on /readyz that it is not
ready, so that load balancers leave it. It answers whoever asks it still, until it is
stopped. It stays so over restarts, until --undo.`,
		Example: "  kith cluster drain n2 --key dev-admin-key\n  kith cluster drain n2 --undo --key dev-admin-key",
		Args:    exactly(1, "a node's name"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	undo := cmd.Flags().Bool("undo", false, "let it own lanes again")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		method, said := http.MethodPost, "%s drains: others own its lanes, it can be stopped\n"
		if *undo {
			method, said = http.MethodDelete, "%s does not drain any more\n"
		}
		var out map[string]any
		if err := c.call(cmd.Context(), method, "/v1/cluster/nodes/"+url.PathEscape(args[0])+"/drain", nil, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		printf(cmd, said, args[0])
		return nil
	}
	return cmd
}

func newClusterMoveCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "move LANE [NODE]",
		Short: "Name the node that owns a lane",
		Long: `Has NODE own the lane, which is to advance its time and do its upkeep, for as long as
it answers and does not drain. --back, without NODE, gives the lane to whom the order
of placement gives it.`,
		Example: "  kith cluster move 3 n2 --key dev-admin-key\n  kith cluster move 3 --back --key dev-admin-key",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usagef("name a lane and a node, or a lane and --back")
			}
			return nil
		},
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	back := cmd.Flags().Bool("back", false, "as the order of placement has it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *back != (len(args) == 1) {
			return usagef("name a lane and a node, or a lane and --back")
		}
		if n, err := strconv.Atoi(args[0]); err != nil || n < 0 || n >= proto.LanesMax {
			return usagef("%q is not a lane: use 0 to %d", args[0], proto.LanesMax-1)
		}
		path, out := "/v1/cluster/lanes/"+url.PathEscape(args[0])+"/owner", map[string]any{}
		method, body, said := http.MethodDelete, any(nil), "lane "+args[0]+" is owned as the order of placement has it\n"
		if !*back {
			method, body, said = http.MethodPut, map[string]string{"node": args[1]}, "lane "+args[0]+" is owned by "+args[1]+" while that answers\n"
		}
		if err := c.call(cmd.Context(), method, path, nil, body, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		printf(cmd, "%s", said)
		return nil
	}
	return cmd
}

func newClusterForgetCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget NODE",
		Short: "Give up a node that is gone for good",
		Long: `Has the log do without a node that was stopped and does not come back: it counts no
more in the votes of the log's servers, and what it kept of the log another node keeps.
A node of that name may come again, with an empty data directory; the log leaves it
out for five minutes, in which all others must stay.`,
		Example: "  kith cluster forget n3 --key dev-admin-key",
		Args:    exactly(1, "a node's name"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var out map[string]any
		if err := c.call(cmd.Context(), http.MethodDelete, "/v1/cluster/nodes/"+url.PathEscape(args[0]), nil, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		printf(cmd, "%s is forgotten\n", args[0])
		return nil
	}
	return cmd
}
