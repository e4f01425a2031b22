"""HTTP to servers that are not trusted: an answer is read up to a size, and no further."""

import io
from typing import Any

import requests
import urllib3.exceptions

PIECE = 64 * 1024


class BoundedSession(requests.Session):
    """A session that ignores proxies and accepts answers of at most `most` bytes.

    A larger answer raises a `requests.RequestException`.
    """

    def __init__(self, most: int) -> None:
        """Set the limit; nothing is connected yet."""
        super().__init__()
        self.trust_env = False
        self._most = most

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send one request and read its answer."""
        answer = super().send(request, **{**kwargs, "stream": True})
        try:
            body = self._read(answer)
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error, request=request) from error
        finally:
            answer.close()
        answer.raw = io.BytesIO(body)
        return answer

    def _read(self, answer: requests.Response) -> bytes:
        body = bytearray()
        for piece in answer.raw.stream(PIECE, decode_content=True):
            body += piece
            if len(body) > self._most:
                raise requests.RequestException(f"the answer has more than {self._most:,} bytes")
        return bytes(body)
