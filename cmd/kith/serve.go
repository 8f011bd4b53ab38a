package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/netutil"

	"kith/gateway"
	"kith/internal/config"
	"kith/internal/demo"
	"kith/proto"
)

// The wiring, numbered in the order in which it is made:
//
//	                  browsers, apps           servers, operators
//	                        │                         │
//	                  2 public plane            2 service plane
//	                        └────────┐       ┌────────┘
//	6 demo ── as a browser ──────> 4 gateway <── 5 NATS (kith.in.*, kith.query.*, kith.optout)
//	                                    │
//	                               3 engine node ── log, actors, store
//	                                    │
//	                1 data directory, other nodes of a cluster
//
// It stops from the outside in: demo, planes and NATS, node, directory.

type serveFlags struct {
	config, data, public, service, nats string
	name, cluster, advertise            string
	join                                []string
	lanes                               int
	dev, demo, rebaseLog                bool
	demoListen                          string
	demoRate                            int
	logLevel, logFormat                 string

	passOn bool // of bench: another node answers all questions
}

// passing is a node that says it may not answer.
type passing struct{ node }

func (passing) Behind() bool { return true }

func newServeCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long: `Runs a node with everything embedded. Flags win over the configuration file.

With --dev it listens on loopback only and knows the client demo with the key
demo-key and the admin key dev-admin-key. Without --dev it needs a kith.yaml
with at least one key (kith key create --role admin --offline makes one).`,
		Example: "  kith serve --dev --demo\n  kith serve --config kith.yaml --data /var/lib/kith",
		Args:    noArgs,
	}
	f.define(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := f.load(cmd)
		if err != nil {
			return err
		}
		log, err := newLogger(cmd.ErrOrStderr(), f.logLevel, f.logFormat)
		if err != nil {
			return err
		}
		return serve(cmd.Context(), c, f, cmd.OutOrStdout(), log)
	}
	return cmd
}

// define gives cmd the flags.
func (f *serveFlags) define(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "configuration `FILE` (see kith config init)")
	fl.BoolVar(&f.dev, "dev", false, "try it out: loopback only, well-known keys")
	fl.BoolVar(&f.demo, "demo", false, "run the demo site and visitors too (with --dev)")
	fl.StringVar(&f.data, "data", "", "data `DIR`ectory (default ./kith-data)")
	fl.StringVar(&f.public, "public", "", "`ADDR`ess for browsers (default 127.0.0.1:8080)")
	fl.StringVar(&f.service, "service", "", "`ADDR`ess for servers and operators (default 127.0.0.1:8081)")
	fl.StringVar(&f.nats, "nats", "", "`URL` of a NATS server to use instead of the embedded one")
	fl.StringVar(&f.name, "name", "", "the node's `NAME`, the same for the life of its data (default n1)")
	fl.StringVar(&f.cluster, "cluster", "", "this node's `ADDR`ess for the others of a cluster; the next port is used too")
	fl.StringVar(&f.advertise, "advertise", "", "`ADDR`ess by which the others reach --cluster, if that differs")
	fl.StringSliceVar(&f.join, "join", nil, "cluster `ADDR`esses of all nodes of a new cluster, or of a member; several with commas between")
	fl.IntVar(&f.lanes, "lanes", 0, "log streams, fixed when the data directory is made (default 1)")
	fl.BoolVar(&f.rebaseLog, "rebase-log", false, "once, after a log was lost: go on with the store as it is and give up what only the log held")
	fl.StringVar(&f.demoListen, "demo-listen", "127.0.0.1:8090", "`ADDR`ess of the demo site")
	fl.IntVar(&f.demoRate, "demo-rate", 20, "events per second of the demo's visitors")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fl.StringVar(&f.logFormat, "log-format", "text", "text or json")
}

// configOf is a file's configuration, or the defaults.
func configOf(file string) (config.Config, error) {
	if file == "" {
		return config.Default(), nil
	}
	return loadConfig(file)
}

// load joins file and flags. The file need not be right without them.
func (f *serveFlags) load(cmd *cobra.Command) (config.Config, error) {
	c, file := config.Default(), config.File{}
	if f.config != "" {
		var err error
		if c, file, err = config.Read(f.config); err != nil {
			return c, inFile(f.config, err)
		}
	}
	fine := c.Validate() == nil
	var flagged []string
	for _, v := range []struct {
		flag, field string
		set         func()
	}{
		{"data", "data", func() { c.Data = f.data }},
		{"public", "public", func() { c.Public = f.public }},
		{"service", "service", func() { c.Service = f.service }},
		{"nats", "nats.url", func() { c.NATS.URL = f.nats }},
		{"name", "node", func() { c.Node = f.name }},
		{"cluster", "cluster.listen", func() { c.Cluster.Listen = f.cluster }},
		{"advertise", "cluster.advertise", func() { c.Cluster.Advertise = f.advertise }},
		{"join", "cluster.join", func() { c.Cluster.Join = f.join }},
		{"lanes", "lanes", func() { c.Lanes = f.lanes }},
	} {
		if cmd.Flags().Changed(v.flag) {
			v.set()
			flagged = append(flagged, v.field)
		}
	}
	if f.demo && !f.dev {
		return c, usagef("--demo needs --dev: its visitors use the demo client's well-known key")
	}
	if f.demoRate < 1 || f.demoRate > 10_000 {
		return c, usagef("--demo-rate is %d: use 1 to 10000", f.demoRate)
	}
	if f.dev {
		c.UseDev()
	}
	if err := f.check(&c, file, fine, flagged); err != nil {
		return c, err
	}
	if err := gatewayConfig(c).Validate(); err != nil { // before anything is opened
		return c, err
	}
	return c, c.NeedKeys()
}

// check checks what file and flags give together. What is wrong is the flags', if the
// file by itself was fine, or it is in what they set.
func (f *serveFlags) check(c *config.Config, file config.File, fine bool, flagged []string) error {
	flag, err := file.Check(c, flagged...)
	if err != nil && (flag || fine) {
		return usageError{c.Validate()}
	}
	return inFile(f.config, err)
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var o slog.HandlerOptions
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level is %q: use debug, info, warn or error", level)
	}
	o.Level = l
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, &o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &o)), nil
	}
	return nil, usagef("--log-format is %q: use text or json", format)
}

// serve runs a node until ctx is done or a part of it fails.
func serve(ctx context.Context, c config.Config, f serveFlags, out io.Writer, log *slog.Logger) (err error) {
	useMemory(log)
	useProcessors()
	useHugePages(log)
	public, service, err := listen(c) // 2
	if err != nil {
		return err
	}
	defer public.Close() // Serve closes them too, if it comes so far
	defer service.Close()
	starting := gateway.Start(service, service.port, log)
	defer starting.Stop()
	members, err := joinCluster(c, log) // 1
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, members.leave()) }()
	n, m, err := openSole(ctx, c, members, f.rebaseLog, log) // 1, 3
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := refuseDevData(c, n); err != nil {
		return err
	}
	if f.passOn {
		n = passing{n}
	}
	g, err := newGateway(c, n, members, m, log) // 4
	if err != nil {
		return err
	}
	leave := func() {
		n.Leave()
		time.Sleep(time.Duration(c.StopWait))
	}
	return runParts(ctx, n, g, members, public, service, starting, leave, func(ctx context.Context) error {
		return welcome(ctx, c, f, public, service, out, log) // 6
	})
}

// openSole is openNode for the only process of the node's name.
func openSole(ctx context.Context, c config.Config, members *members, rebaseLog bool, log *slog.Logger) (node, gateway.Maintenance, error) {
	if err := members.meet(ctx); err != nil {
		return nil, nil, err
	}
	sole, done := members.sole(ctx)
	defer done()
	n, m, err := openNode(sole, c, members, rebaseLog, log)
	if err != nil && sole.Err() != nil && ctx.Err() == nil {
		return nil, nil, context.Cause(sole)
	}
	return n, m, err
}

// part is something that runs until its context is done.
type part struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// runParts starts gateway and guests, and stops them in the opposite order
// when ctx is done, after leave, or one of them fails. starting gives the service plane
// to the gateway, once NATS is served: who was told that the node is ready finds it
// there too. Whoever asked it ends with the planes, before the node does.
func runParts(ctx context.Context, n node, g *gateway.Gateway, members *members, public, service net.Listener, starting *gateway.Starting, leave func(), guests func(context.Context) error) error {
	failed := make(chan error, 7)
	// Each layer has its own life: what stops it is stop below, not ctx.
	start := func(parts ...func(context.Context) error) *part {
		p := &part{}
		var layer context.Context
		layer, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
		for _, run := range parts {
			p.done.Go(func() { failed <- run(layer) })
		}
		return p
	}
	heard, opened := make(chan struct{}), make(chan struct{})
	layers := []*part{
		start(g.KeepAudit), // until all calls are answered
		start(
			func(ctx context.Context) error {
				if !reached(ctx, heard) {
					return nil
				}
				starting.Open(g.Listening())
				close(opened)
				return g.Serve(ctx, public, service)
			},
			func(ctx context.Context) error {
				<-ctx.Done()
				starting.Stop()
				return nil
			},
			func(ctx context.Context) error { return g.ServeNATS(ctx, n.Conn(), func() { close(heard) }) }, // 5
			g.ServeOthers,
			members.stay,
		),
		start(func(ctx context.Context) error {
			if !reached(ctx, opened) {
				return nil
			}
			return guests(ctx)
		}),
	}
	var err error
	select {
	case <-ctx.Done():
		leave()
	case err = <-failed:
		if err == nil {
			err = proto.Errorf(proto.CodeInternal, "a part of the node stopped without being asked to: see the log")
		}
	}
	for i := len(layers) - 1; i >= 0; i-- {
		layers[i].cancel()
		layers[i].done.Wait()
	}
	close(failed)
	for e := range failed {
		if e != nil && !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// reached reports whether something came to pass before ctx ended.
func reached(ctx context.Context, passed <-chan struct{}) bool {
	select {
	case <-passed:
		return true
	case <-ctx.Done():
		return false
	}
}

// planeListener is a plane's, with the port below TLS and the limit of connections.
type planeListener struct {
	net.Listener
	port *net.TCPListener
}

func listen(c config.Config) (public, service *planeListener, err error) {
	if public, err = listenOn("public", c.Public, c.TLS, c.Limits.ConnectionsMax); err != nil {
		return nil, nil, err
	}
	if service, err = listenOn("service", c.Service, c.TLS, c.Limits.ConnectionsMax); err != nil {
		return nil, nil, errors.Join(err, public.Close())
	}
	return public, service, nil
}

// listenOn opens a plane's port. Connections beyond most wait to be accepted.
func listenOn(plane, addr string, files config.TLS, most int) (*planeListener, error) {
	port, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, proto.Errorf(proto.CodeConflict, "the %s plane cannot listen on %s: stop what listens there, or pass --%s ADDR: %w", plane, addr, plane, err)
	}
	l := &planeListener{netutil.LimitListener(port, most), port.(*net.TCPListener)} // below TLS, which net/http must see
	c, err := planeTLS(files)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if c == nil {
		return l, nil
	}
	l.Listener = tls.NewListener(l.Listener, c)
	return l, nil
}

// planeTLS is for the planes' ports; nil without files.
func planeTLS(files config.TLS) (*tls.Config, error) {
	if files.Cert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "the certificate cannot be used; tls.cert and tls.key must be PEM files that belong together: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// refuseDevData refuses to serve data that were made with --dev without it,
// restored from a backup or not: the key that everybody knows is in them.
func refuseDevData(c config.Config, n gateway.Accounts) error {
	if _, known := n.Authenticate(config.DevKey); !known || c.Dev {
		return nil
	}
	return proto.Errorf(proto.CodeConflict, "the data in %s were made with --dev, whose key everybody knows: use another --data, or --dev", c.Data)
}

// welcome says that queries are answered and where, and runs the demo.
func welcome(ctx context.Context, c config.Config, f serveFlags, public, service net.Listener, out io.Writer, log *slog.Logger) error {
	scheme := "http://"
	if c.TLS.Cert != "" {
		scheme = "https://"
	}
	publicURL, serviceURL := scheme+public.Addr().String(), scheme+service.Addr().String()
	if !f.demo {
		printReady(out, c, publicURL, serviceURL, nil)
		<-ctx.Done()
		return nil
	}
	d, err := demo.Start(ctx, demo.Config{
		Public: publicURL, Service: serviceURL, Key: config.DevKey, Client: config.DevClient,
		Listen: f.demoListen, EventsPerSecond: f.demoRate, Log: log,
	})
	if err != nil {
		return err
	}
	printReady(out, c, publicURL, serviceURL, d)
	return d.Run(ctx)
}

func printReady(out io.Writer, c config.Config, publicURL, serviceURL string, d *demo.Demo) {
	fmt.Fprintf(out, "\nkith %s is ready: queries are answered.\n\n", version)
	fmt.Fprintf(out, "  public plane   %s   (the tag: %s/kith.js)\n", publicURL, publicURL)
	fmt.Fprintf(out, "  for people     %s/optout and %s/choices\n", publicURL, publicURL)
	fmt.Fprintf(out, "  service plane  %s   (metrics: %s/metrics)\n", serviceURL, serviceURL)
	fmt.Fprintf(out, "  data           %s\n", c.Data)
	if c.Dev {
		fmt.Fprintf(out, "  keys           %s (client %s), %s (admin)\n", config.DevKey, config.DevClient, config.DevAdminKey)
	}
	if d != nil {
		address := strings.TrimPrefix(serviceURL, "http://")
		fmt.Fprintf(out, "  demo site      %s   (its visitors are on it now)\n", d.URL())
		fmt.Fprintf(out, "  the tour       %stour   (two devices, one person, one opt-out)\n\n", d.URL())
		fmt.Fprintf(out, "A visitor that is in a segment already:\n\n  %s lookup %s --service %s --key %s\n", os.Args[0], d.Regular(), address, config.DevKey)
		fmt.Fprintf(out, "  %s user %s --service %s --key %s     (it logged in on two devices)\n", os.Args[0], d.Regular(), address, config.DevKey)
		fmt.Fprintf(out, "  curl -H 'Authorization: Bearer %s' %s/v1/identities/%s/segments\n", config.DevKey, serviceURL, d.Regular())
	}
	fmt.Fprint(out, "\nCtrl-C stops it.\n")
}
