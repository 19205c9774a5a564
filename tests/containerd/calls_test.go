package containerd

import (
	"bytes"
	"crypto/sha512"
	"fmt"
	"strings"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func TestReadGivesTheRangeThatIsThere(t *testing.T) {
	w := writable(t)
	blob, _ := random(3 << 20)
	dgst := w.store(t, blob, nil)
	size := int64(len(blob))
	for _, c := range []struct{ offset, size, begin, end int64 }{
		{0, 0, 0, size},
		{-5, -5, 0, size},
		{10, 20, 10, 30},
		{10, 0, 10, size},
		{size - 7, 100, size - 7, size},
		{1<<20 - 1, 1<<20 + 2, 1<<20 - 1, 2<<20 + 1},
		{size, 0, size, size},
		{size, 1, size, size},
		{1, 1<<63 - 1, 1, size},
	} {
		read, err := w.read(&api.ReadContentRequest{Digest: dgst.String(), Offset: c.offset, Size: c.size})
		if err != nil || !bytes.Equal(read, blob[c.begin:c.end]) {
			t.Errorf("%+v: %d bytes, %v", c, len(read), err)
		}
	}
	_, absent := random(1)
	for _, c := range []struct {
		digest string
		offset int64
		code   codes.Code
	}{
		{dgst.String(), size + 1, codes.OutOfRange},
		{absent.String(), 0, codes.NotFound},
		{"", 0, codes.InvalidArgument},
		{"sha256:abc", 0, codes.InvalidArgument},
		{"../../etc/passwd", 0, codes.InvalidArgument},
	} {
		_, err := w.read(&api.ReadContentRequest{Digest: c.digest, Offset: c.offset})
		expect(t, c.digest, err, c.code)
	}
}

func TestInfoSaysWhatIsThere(t *testing.T) {
	w := writable(t)
	blob, dgst := random(1000)
	_, err := w.Info(w, dgst)
	if !errdefs.IsNotFound(err) {
		t.Errorf("expected not found, received %v", err)
	}
	w.store(t, blob, map[string]string{"a": "1"})
	info, err := w.Info(w, dgst)
	if err != nil || info.Digest != dgst || info.Size != 1000 || info.Labels["a"] != "1" {
		t.Errorf("%+v, %v", info, err)
	}
	_, err = w.raw.Info(w, &api.InfoRequest{Digest: "nothing"})
	expect(t, "info of what is no digest", err, codes.InvalidArgument)
}

func TestLabelsAreThoseOfTheNamespace(t *testing.T) {
	w := writable(t)
	blob, _ := random(100)
	dgst := w.store(t, blob, map[string]string{"kept": "1", "gone": "2"})
	updated, err := w.Update(w, content.Info{Digest: dgst, Labels: map[string]string{"new": "3"}}, "labels.new", "labels.gone")
	if err != nil || fmt.Sprint(updated.Labels) != "map[kept:1 new:3]" {
		t.Errorf("%v, %v", updated.Labels, err)
	}
	elsewhere := namespaces.WithNamespace(w, "elsewhere")
	if info, err := w.Info(elsewhere, dgst); err != nil || len(info.Labels) != 0 {
		t.Errorf("%v, %v", info.Labels, err)
	}
	if updated, err = w.Update(w, content.Info{Digest: dgst}, "labels"); err != nil || len(updated.Labels) != 0 {
		t.Errorf("%v, %v", updated.Labels, err)
	}
	_, absent := random(1)
	for _, c := range []struct {
		what string
		info *api.Info
		mask []string
		code codes.Code
	}{
		{"absent", &api.Info{Digest: absent.String()}, nil, codes.NotFound},
		{"no digest", &api.Info{Digest: "nothing"}, nil, codes.InvalidArgument},
		{"nothing", nil, nil, codes.InvalidArgument},
		{"size", &api.Info{Digest: dgst.String(), Size: 5}, []string{"size"}, codes.InvalidArgument},
		{"long", &api.Info{Digest: dgst.String(), Labels: map[string]string{"k": strings.Repeat("v", 4096)}}, nil, codes.InvalidArgument},
		{"just right", &api.Info{Digest: dgst.String(), Labels: map[string]string{"k": strings.Repeat("v", 4095)}}, nil, codes.OK},
	} {
		_, err := w.raw.Update(w, &api.UpdateRequest{Info: c.info, UpdateMask: &fieldmaskpb.FieldMask{Paths: c.mask}})
		expect(t, c.what, err, c.code)
	}
}

func TestListGivesWhatOneOfTheFiltersMatches(t *testing.T) {
	w := writable(t)
	digests := map[string]string{}
	for i, name := range []string{"one", "two", "three"} {
		blob, dgst := random(2000 + i)
		digests[dgst.String()] = name
		w.store(t, blob, map[string]string{"name": name, "a label/with.dots": "yes"})
	}
	check := func(expected string, filters ...string) {
		t.Helper()
		found := ""
		for _, name := range []string{"one", "two", "three"} {
			err := w.Walk(w, func(info content.Info) error {
				if digests[info.Digest.String()] == name {
					found += name + " "
				}
				return nil
			}, filters...)
			if err != nil {
				t.Fatal(err)
			}
		}
		if strings.TrimSpace(found) != expected {
			t.Errorf("%q: expected %q, found %q", filters, expected, found)
		}
	}
	check("one two three")
	check("one two three", "")
	check("one", "labels.name==one")
	check("one three", "labels.name!=two", "size==0")
	check("one two", "labels.name==one", "labels.name==two")
	check("three", `labels."name"~=/^th/,labels."a label/with.dots"==yes`)
	check("two", "size==2001,labels.name")
	check("", "labels.none")
	for dgst, name := range digests {
		check(name, "digest=="+dgst)
		check(name, `digest~="^`+dgst+`$"`)
	}
	if err := w.Walk(w, nil, "labels.name=one"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("expected an invalid argument, received %v", err)
	}
}

func TestDeletedContentIsGoneWithItsLabels(t *testing.T) {
	w := writable(t)
	blob, _ := random(100)
	dgst := w.store(t, blob, map[string]string{"a": "1"})
	if err := w.Delete(w, dgst); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete(w, dgst); !errdefs.IsNotFound(err) {
		t.Errorf("expected not found, received %v", err)
	}
	w.store(t, blob, nil)
	if info, err := w.Info(w, dgst); err != nil || len(info.Labels) != 0 {
		t.Errorf("%v, %v", info.Labels, err)
	}
	_, err := w.raw.Delete(w, &api.DeleteContentRequest{Digest: "nothing"})
	expect(t, "delete what is no digest", err, codes.InvalidArgument)
}

func TestEmptyAndSha512ContentCanBeWritten(t *testing.T) {
	w := writable(t)
	blob, _ := random(5 << 20)
	long := digest.NewDigestFromBytes(digest.SHA512, func() []byte { sum := sha512.Sum512(blob); return sum[:] }())
	empty := digest.FromBytes(nil)
	for dgst, bytes := range map[digest.Digest][]byte{long: blob, empty: nil} {
		writer := w.writer(t, dgst.Encoded(), ocispec.Descriptor{Digest: dgst})
		if _, err := writer.Write(bytes); err != nil {
			t.Fatal(err)
		}
		if err := writer.Commit(w, int64(len(bytes)), dgst); err != nil {
			t.Fatalf("%s: %v", dgst, err)
		}
		read, err := content.ReadBlob(w, w.Store, ocispec.Descriptor{Digest: dgst})
		if err != nil || string(read) != string(bytes) {
			t.Errorf("%s: %d bytes, %v", dgst, len(read), err)
		}
	}
}

// TestDigestOfAnotherAlgorithmIsFoundOutAtCommit writes without a word of sha512 until the end.
func TestDigestOfAnotherAlgorithmIsFoundOutAtCommit(t *testing.T) {
	w := writable(t)
	blob, _ := random(100_000)
	for _, c := range []struct {
		dgst digest.Digest
		code codes.Code
	}{
		{digest.SHA512.FromString("something else"), codes.FailedPrecondition},
		{digest.SHA512.FromBytes(blob), codes.OK},
	} {
		_, err := w.send(&api.WriteContentRequest{Action: api.WriteAction_COMMIT, Ref: "late", Data: blob, Expected: c.dgst.String()})
		expect(t, c.dgst.String(), err, c.code)
	}
}

// send has a conversation of these messages, and returns the last answer.
func (w world) send(messages ...*api.WriteContentRequest) (response *api.WriteContentResponse, err error) {
	stream, err := w.raw.Write(w)
	if err != nil {
		return nil, err
	}
	for _, message := range messages {
		// Why it cannot be sent is said to who receives.
		_ = stream.Send(message)
		if response, err = stream.Recv(); err != nil {
			return nil, err
		}
	}
	if err = stream.CloseSend(); err != nil {
		return nil, err
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return response, nil
		}
	}
}

func TestWriteRefusesWhatCannotBeTrue(t *testing.T) {
	w := writable(t)
	blob, dgst := random(100)
	there, _ := random(100)
	left, _ := random(100)
	present := w.store(t, there, nil)
	_, other := random(1)
	const (
		stat   = api.WriteAction_STAT
		write  = api.WriteAction_WRITE
		commit = api.WriteAction_COMMIT
	)
	for _, c := range []struct {
		what     string
		messages []*api.WriteContentRequest
		code     codes.Code
	}{
		{"no ref", []*api.WriteContentRequest{{Action: stat}}, codes.InvalidArgument},
		{"a long ref", []*api.WriteContentRequest{{Action: stat, Ref: strings.Repeat("r", 1025)}}, codes.InvalidArgument},
		{"no digest", []*api.WriteContentRequest{{Action: stat, Ref: "r", Expected: "sha256:0"}}, codes.InvalidArgument},
		{"present", []*api.WriteContentRequest{{Action: stat, Ref: "r", Expected: present.String()}}, codes.AlreadyExists},
		{"present later", []*api.WriteContentRequest{{Action: stat, Ref: "r"}, {Action: stat, Expected: present.String()}}, codes.AlreadyExists},
		{"gap", []*api.WriteContentRequest{{Action: write, Ref: "r", Data: left}, {Action: write, Offset: 101, Data: left}}, codes.OutOfRange},
		{"overlap", []*api.WriteContentRequest{{Action: stat, Ref: "r"}, {Action: write, Offset: 99, Data: left}}, codes.OutOfRange},
		{"another digest", []*api.WriteContentRequest{{Action: commit, Ref: "r", Data: left, Expected: other.String()}}, codes.FailedPrecondition},
		{"another size", []*api.WriteContentRequest{{Action: commit, Ref: "r", Offset: 100, Total: 99}}, codes.FailedPrecondition},
		{"a long label", []*api.WriteContentRequest{{Action: commit, Ref: "r", Offset: 100, Labels: map[string]string{"k": strings.Repeat("v", 4096)}}}, codes.InvalidArgument},
		{"the same present", []*api.WriteContentRequest{{Action: commit, Ref: "r", Data: there}}, codes.AlreadyExists},
		{"all at once", []*api.WriteContentRequest{{Action: commit, Ref: "r", Data: blob, Total: 100, Expected: dgst.String()}}, codes.OK},
	} {
		_, err := w.send(c.messages...)
		expect(t, c.what, err, c.code)
	}
	if statuses, err := w.ListStatuses(w); err != nil || len(statuses) != 0 {
		t.Errorf("refs are left: %+v, %v", statuses, err)
	}
}

func TestWriteGoesOnWhereItEnded(t *testing.T) {
	w := writable(t)
	blob, dgst := random(3000)
	for i := range 3 {
		response, err := w.send(
			&api.WriteContentRequest{Action: api.WriteAction_STAT, Ref: "parts", Expected: dgst.String()},
			&api.WriteContentRequest{Action: api.WriteAction_WRITE, Offset: int64(i * 1000), Data: blob[i*1000 : i*1000+1000]})
		expect(t, "part", err, codes.OK)
		if soFar := digest.FromBytes(blob[:i*1000+1000]).String(); response.Digest != soFar {
			t.Errorf("%s instead of %s", response.Digest, soFar)
		}
	}
	response, err := w.send(&api.WriteContentRequest{Action: api.WriteAction_COMMIT, Ref: "parts", Offset: 3000})
	if err != nil || response.Digest != dgst.String() || response.Offset != 3000 {
		t.Errorf("%+v, %v", response, err)
	}
	read, err := w.read(&api.ReadContentRequest{Digest: dgst.String()})
	if err != nil || !bytes.Equal(read, blob) {
		t.Errorf("%d bytes, %v", len(read), err)
	}
}

func TestStatusesTellOfWhatIsBeingWritten(t *testing.T) {
	w := writable(t)
	blob, dgst := random(100)
	if _, err := w.Status(w, "one"); !errdefs.IsNotFound(err) {
		t.Errorf("expected not found, received %v", err)
	}
	writer := w.writer(t, "one", ocispec.Descriptor{Digest: dgst, Size: 100})
	if _, err := writer.Write(blob[:60]); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		status, err := w.Status(w, "one")
		if err != nil || status.Ref != "one" || status.Offset != 60 || status.Total != 100 || status.Expected != dgst {
			t.Errorf("%+v, %v", status, err)
		}
		if status.UpdatedAt.Before(status.StartedAt) || time.Since(status.StartedAt) > time.Minute {
			t.Errorf("%+v", status)
		}
	}
	check()
	if _, err := w.Writer(w, content.WithRef("one")); !errdefs.IsUnavailable(err) {
		t.Errorf("expected unavailable, received %v", err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	second := w.writer(t, "one", ocispec.Descriptor{Digest: dgst, Size: 100})
	check()
	w.writer(t, "two", ocispec.Descriptor{})
	for filter, expected := range map[string]int{"": 2, "ref==one": 1, "ref~=^t": 1, "ref==three": 0} {
		if statuses, err := w.ListStatuses(w, filter); err != nil || len(statuses) != expected {
			t.Errorf("%s: %+v, %v", filter, statuses, err)
		}
	}
	elsewhere := namespaces.WithNamespace(w, "elsewhere")
	if statuses, err := w.ListStatuses(elsewhere, "ref==one"); err != nil || len(statuses) != 0 {
		t.Errorf("%+v, %v", statuses, err)
	}
	if err := w.Abort(elsewhere, "one"); !errdefs.IsNotFound(err) {
		t.Errorf("expected not found, received %v", err)
	}
	if err := w.Abort(w, "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Write(blob[60:]); err == nil {
		t.Error("a write goes on after it was aborted")
	}
	if _, err := w.Status(w, "one"); !errdefs.IsNotFound(err) {
		t.Errorf("expected not found, received %v", err)
	}
}

func TestNamespaceIsRequired(t *testing.T) {
	w := writable(t)
	w.Context = nobody(w)
	_, dgst := random(1)
	_, err := w.raw.Info(w, &api.InfoRequest{Digest: dgst.String()})
	expect(t, "info", err, codes.FailedPrecondition)
	_, err = w.read(&api.ReadContentRequest{Digest: dgst.String()})
	expect(t, "read", err, codes.FailedPrecondition)
	_, err = w.send(&api.WriteContentRequest{Ref: "r"})
	expect(t, "write", err, codes.FailedPrecondition)
	w.Context = namespaces.WithNamespace(w, "no/namespace")
	_, err = w.raw.Info(w, &api.InfoRequest{Digest: dgst.String()})
	expect(t, "info", err, codes.InvalidArgument)
}

func TestReadOnlyServiceGivesAndTakesNothing(t *testing.T) {
	w, reader := writable(t), open(t, "LARDER_CONTENT_READ_ONLY")
	blob, _ := random(100)
	dgst := w.store(t, blob, nil)
	read, err := reader.read(&api.ReadContentRequest{Digest: dgst.String()})
	if err != nil || !bytes.Equal(read, blob) {
		t.Errorf("%d bytes, %v", len(read), err)
	}
	found := 0
	if err := reader.Walk(reader, func(content.Info) error { found++; return nil }, "digest=="+dgst.String()); err != nil || found != 1 {
		t.Errorf("%d, %v", found, err)
	}
	_, err = reader.raw.Delete(reader, &api.DeleteContentRequest{Digest: dgst.String()})
	expect(t, "delete", err, codes.PermissionDenied)
	_, err = reader.raw.Update(reader, &api.UpdateRequest{Info: &api.Info{Digest: dgst.String()}})
	expect(t, "update", err, codes.PermissionDenied)
	_, err = reader.raw.Abort(reader, &api.AbortRequest{Ref: "r"})
	expect(t, "abort", err, codes.PermissionDenied)
	_, err = reader.send(&api.WriteContentRequest{Action: api.WriteAction_COMMIT, Ref: "r", Data: []byte("new")})
	expect(t, "write", err, codes.PermissionDenied)
	// A pull goes on where it finds what it wanted to write.
	_, err = reader.send(&api.WriteContentRequest{Ref: "r", Expected: dgst.String()})
	expect(t, "write what is there", err, codes.AlreadyExists)
	if _, err = w.Info(w, dgst); err != nil {
		t.Error(err)
	}
}
