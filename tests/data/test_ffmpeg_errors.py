"""Errors of FFmpeg are told as what they mean for the file, with a remedy."""

import codecs
import errno
import io
import os
import zipfile

import av
import numpy as np
import pytest
import video_factory as factory
from av.error import ErrorType

from slowfast_uniformer.data import ffmpeg_errors
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.ffmpeg_errors import AGAIN, REENCODE, explain
from slowfast_uniformer.data.video import VideoError, VideoTimeout


def ffmpeg_error(number):
    try:
        av.error.err_check(-number)
    except av.FFmpegError as error:
        return error


def refusal(path):
    with pytest.raises(VideoError) as caught, Video(path) as video:
        video.read(range(video.frames))
    assert not caught.value.transient and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"cannot read {path}: ")


def zipped():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a.mp4", "x")
    return data.getvalue()


@pytest.mark.parametrize(
    "content, said",
    [
        (b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>", "an HTML page, not a video: the download failed"),
        (b"<HTML><head>", "an HTML page, not a video: the download failed"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a text in XML, not a video"),
        (b'{"error": "quota exceeded"}', """a text, not a video: '{"error": "quota exceeded"}'"""),
        (b"1\n00:00:01,000 --> 00:00:02,000\nhello\n", "a text, not a video: '1'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "fetch that with `git lfs pull`"),
        (b"../.git/annex/objects/Kp/x/MD5E-s1--0.mp4", "fetch that with `git annex get`"),
        (zipped(), "a ZIP archive, not a video; unpack it"),
        (b"\x1f\x8b\x08" + bytes(range(200)), "a compressed file, not a video; unpack it"),
        (b"%PDF-1.7\n" + bytes(range(256)), "a PDF, not a video"),
        (b"\xff\xd8\xff\xe0" + bytes(range(100)), f"a damaged picture; {AGAIN}"),
        (bytes(100_000), "the download or copy did not finish"),
        (np.random.RandomState(0).bytes(9000), ffmpeg_errors.HEADER_LOST),
        (b"G\0\xff", ffmpeg_errors.HEADER_LOST),
        (codecs.BOM_UTF8 + b"<html>", "an HTML page, not a video"),
        ("视频不存在。".encode() * 500, "a text, not a video: '视频不存在"),
    ],
)
def test_files_that_are_no_videos_are_named(tmp_path, content, said):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert said in refusal(path)


@pytest.mark.parametrize("name", ["a.mp4.part", "a.mp4.crdownload", "a.mp4.ytdl", "A.MP4.PART", "a.mp4"])
def test_unfinished_downloads(tmp_path, name):
    (tmp_path / name).write_bytes(np.random.RandomState(0).bytes(9000))
    if name == "a.mp4":
        (tmp_path / "a.mp4.aria2").touch()
    assert refusal(tmp_path / name) == "an unfinished download; finish it, or download it again"


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
@pytest.mark.parametrize("kept", [100, 400, 1000, 0.7])
@pytest.mark.parametrize("in_front", [True, False])
def test_an_mp4_that_is_cut_before_its_index_ends(tmp_path, name, kept, in_front):
    muxing = {"movflags": "faststart"} if in_front else {"brand": "isom"}
    path = factory.write_video(tmp_path / name, muxing=muxing, **factory.X264)
    path.write_bytes(path.read_bytes()[: kept if kept > 1 else int(kept * path.stat().st_size)])
    if not (in_front and kept == 0.7):  # all but some frames is there
        assert refusal(path).startswith("its index (moov box) is missing or incomplete: the recording or copy was cut")


def test_a_segment_of_a_stream_is_read_once_it_is_joined(tmp_path):
    movflags = "frag_keyframe+empty_moov+default_base_moof"
    path = factory.write_video(tmp_path / "a.mp4", muxing={"movflags": movflags}, **factory.X264)
    data = path.read_bytes()
    start = data.index(b"moof") - 4
    path.write_bytes(data[start:])
    assert "without the first; join them (cat init.mp4 IN > OUT.mp4)" in refusal(path)
    path.write_bytes(data[:start] + data[start:])
    with Video(path) as video:
        assert len(video.read(range(60))) == 60


@pytest.mark.parametrize(
    "name, kept, said",
    [
        ("long_gop.mkv", 200, "Input/output error"),
        ("vp9.webm", 400, "Input/output error"),
        ("stream.ts", 400, "End of file"),
        ("mpeg2.mpg", 30, "End of file"),
    ],
)
def test_ffmpegs_words_for_damaged_headers_come_with_their_meaning(tmp_path, name, kept, said):
    path = factory.make(tmp_path, name)
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(path) == f"its header is damaged or cut off: {said}; {AGAIN}"


@pytest.mark.parametrize(
    "number, decoded, said",
    [
        (ErrorType.EOF, None, "its header is damaged or cut off: End of file"),
        (errno.EPERM, None, "its header is damaged or cut off: Operation not permitted"),
        (errno.EIO, None, "its header is damaged or cut off: Input/output error"),
        (errno.EAGAIN, None, "its header is damaged or cut off: Resource temporarily unavailable"),
        (errno.ENOENT, None, "its header is damaged or cut off: No such file"),  # which the file names, not the list
        (errno.EISDIR, None, "its header is damaged or cut off: Is a directory"),
        (ErrorType.EXIT, None, "its header is damaged or cut off: Immediate exit requested"),
        (ErrorType.INVALIDDATA, None, "not a video, or its header is lost"),
        (ErrorType.INVALIDDATA, 0, "no frame decodes: Invalid data found"),
        (ErrorType.INVALIDDATA, 1, "only 1 frame decodes: Invalid data found"),
        (ErrorType.INVALIDDATA, 9, "only 9 frames decode: Invalid data found"),
        (errno.EPERM, 9, "only 9 frames decode: Operation not permitted"),
        (errno.ENOMEM, None, "Cannot allocate memory: the machine's memory is full, or"),
    ],
)
def test_what_an_error_of_ffmpeg_means(tmp_path, number, decoded, said):
    path = tmp_path / "a.mkv"
    path.write_bytes(b"\x1aE\xdf\xa3" + bytes(range(1, 200)))
    error = explain(str(path), ffmpeg_error(number), None, decoded)
    assert said in str(error) and str(error).endswith(f"; {AGAIN}") and not error.transient


@pytest.mark.parametrize(
    "number", ["PATCHWELCOME", "DECODER_NOT_FOUND", "BSF_NOT_FOUND", "PROTOCOL_NOT_FOUND", "EXPERIMENTAL"]
)
def test_what_this_build_cannot_read(tmp_path, number):
    (tmp_path / "a.mkv").write_bytes(b"\x1aE\xdf\xa3" + bytes(range(1, 200)))
    error = explain(str(tmp_path / "a.mkv"), ffmpeg_error(ErrorType[number]))
    assert str(error).endswith(f"or this build of FFmpeg cannot read it; {AGAIN}, or {REENCODE}")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_the_file_system_is_told_from_the_file(tmp_path, number):
    """FFmpeg says the same; but without it the file cannot be read either."""
    path = factory.write_video(tmp_path / "a.mp4", **factory.X264)

    class Failing(io.FileIO):
        def readinto(self, buffer):
            raise OSError(number, os.strerror(number))

        read = readinto

    error = explain(str(path), ffmpeg_error(errno.EIO), lambda: Failing(path))
    assert error.transient and f"cannot read {path}: {os.strerror(number)}" in str(error)
    with pytest.raises(VideoError, match=os.strerror(number)) as caught:
        Video(path, lambda: Failing(path))
    assert caught.value.transient


def test_a_disk_that_fails_behind_the_header(tmp_path):
    path = factory.write_video(tmp_path / "a.mkv", **factory.X264)

    class Failing(io.FileIO):
        def readinto(self, buffer):
            if self.tell() + len(buffer) > 5000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(buffer)

        def read(self, size=-1):
            data = bytearray(size)
            return bytes(data[: self.readinto(data)])

    assert explain(str(path), ffmpeg_error(errno.EIO), lambda: Failing(path), 3).transient


def test_missing_files_and_time_limits_are_transient(tmp_path):
    with pytest.raises(VideoError, match="No such file or directory") as caught:
        Video(tmp_path / "a.mp4")
    assert caught.value.transient and VideoTimeout("a.mp4", "late").transient
