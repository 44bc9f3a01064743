package detach

import (
	"net"
	"net/http"
	"reflect"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// shouldLog reports whether the access log of a server has a line of r, as Caddy decides
// it on its arrival and when it is answered.
func shouldLog(server *caddyhttp.Server, r *http.Request) bool {
	logs := server.Logs
	if skip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool); logs == nil || skip {
		return false
	}
	host := hostOf(r)
	for name := range logs.LoggerNames {
		if matchesHost(host, name) {
			return true
		}
	}
	for _, name := range logs.SkipHosts {
		if matchesHost(host, name) {
			return false
		}
	}
	return !logs.SkipUnmappedHosts
}

func hostOf(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.Host); err == nil {
		return strings.ToLower(host)
	}
	return strings.ToLower(r.Host)
}

// matchesHost reports whether a host is meant by a name, of which one label or several
// from the left may be wildcards.
func matchesHost(host, name string) bool {
	name = strings.ToLower(name)
	for _, candidate := range candidates(host) {
		if candidate == name {
			return true
		}
	}
	return false
}

// candidates are the names by which a host may be meant, from the narrowest.
func candidates(host string) []string {
	all := []string{host}
	labels := strings.Split(host, ".")
	for i := range labels {
		if labels[i] != "" {
			labels[i] = "*"
			all = append(all, strings.Join(labels, "."))
		}
	}
	return all
}

// loggers are those that tell of r, whose names are given by its host or a handler on the
// way to us.
func loggers(logs *caddyhttp.ServerLogConfig, of *zap.Logger, r *http.Request) []*zap.Logger {
	var names []string
	if given, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		for _, name := range given {
			text, _ := name.(string)
			names = append(names, text)
		}
	} else {
		names = []string{logs.DefaultLoggerName}
		for _, candidate := range candidates(hostOf(r)) {
			if of, known := logs.LoggerNames[candidate]; known {
				names = of
				break
			}
		}
	}
	all := make([]*zap.Logger, 0, len(names))
	for _, name := range names {
		if name == "" {
			all = append(all, of)
		} else {
			all = append(all, of.Named(name))
		}
	}
	return all
}

// log writes the line of the access log, and that of the error log, that Caddy would have
// written at the end of the request.
func (k *parked) log(a *answer, failed error) {
	r := k.poll.Request
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	logs := server.Logs
	logged := k.logged
	if k.logged = false; !logged && failed == nil {
		return
	}
	took := time.Since(k.poll.Arrived)
	credentials := logs != nil && logs.ShouldLogCredentials
	request := zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: asArrived(r), ShouldLogCredentials: credentials})
	if failed != nil {
		k.logError(logs, request, took, failed)
	}
	if !logged {
		return
	}
	level := zapcore.InfoLevel
	if a.status >= 500 {
		level = zapcore.ErrorLevel
	}
	if name, ok := caddyhttp.GetVar(r.Context(), caddyhttp.LogLevelVar).(string); ok {
		if given, err := zapcore.ParseLevel(name); err == nil && given >= zapcore.DebugLevel && given <= zapcore.ErrorLevel {
			level = given
		}
	}
	var fields []zap.Field
	for _, logger := range loggers(logs, k.lobby.access, r) {
		c := logger.Check(level, "handled request")
		if c == nil {
			continue
		}
		if fields == nil {
			fields = []zap.Field{
				request, zap.Int("bytes_read", len(k.poll.Body)), zap.String("user_id", k.poll.User()), zap.Duration("duration", took),
				zap.Int("size", a.taken), zap.Int("status", a.status),
				zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: a.header, ShouldLogCredentials: credentials}),
			}
			if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
				fields = append(fields, extraOf(extra)...)
			}
		}
		c.Write(fields...)
	}
}

// logError writes the line of the error log.
func (k *parked) logError(logs *caddyhttp.ServerLogConfig, request zap.Field, took time.Duration, failed error) {
	level, text, fields := zapcore.DebugLevel, failed.Error(), []zap.Field{request, zap.Duration("duration", took)}
	if statusOf(failed) >= 500 {
		level = zapcore.ErrorLevel
	}
	if of, ok := failed.(caddyhttp.HandlerError); ok {
		if of.Err != nil {
			text = of.Err.Error()
		}
		fields = append(fields, zap.Int("status", of.StatusCode), zap.String("err_id", of.ID), zap.String("err_trace", of.Trace))
	} else {
		fields = append(fields, zap.Error(failed))
	}
	all := []*zap.Logger{k.lobby.errors}
	if logs != nil {
		all = loggers(logs, k.lobby.errors, k.poll.Request)
	}
	for _, logger := range all {
		if c := logger.Check(level, text); c != nil {
			c.Write(fields...)
		}
	}
}

// asArrived is r as it was before it was rewritten.
func asArrived(r *http.Request) *http.Request {
	orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok {
		return r
	}
	r = r.WithContext(r.Context())
	r.Method, r.RemoteAddr, r.RequestURI, r.URL = orig.Method, orig.RemoteAddr, orig.RequestURI, orig.URL
	return r
}

// extraFields is where Caddy keeps the fields that handlers on the way to us (log_append)
// have added to the line: it writes them itself as a rule, and has no way to ask for them.
// Where it keeps them somewhere else, nothing that is logged is detached: see readsExtra.
var extraFields, readsExtra = func() (reflect.StructField, bool) {
	f, ok := reflect.TypeFor[caddyhttp.ExtraLogFields]().FieldByName("fields")
	return f, ok && f.Type == reflect.TypeFor[[]zapcore.Field]()
}()

func extraOf(extra *caddyhttp.ExtraLogFields) []zap.Field {
	at := reflect.ValueOf(extra).Elem().FieldByIndex(extraFields.Index).Addr()
	return *(*[]zap.Field)(at.UnsafePointer())
}
