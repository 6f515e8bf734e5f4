# The HTTP service with its models inside: nothing is downloaded at run time, nothing is written but to /tmp.
#
#   docker build -t mien .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 mien

FROM python:3.12-slim

COPY . /source
RUN python -m pip install --no-cache-dir "/source[app,video]"
RUN rm -rf /source
RUN useradd --no-create-home --shell /usr/sbin/nologin mien

USER mien
ENV MIEN_HOME=/tmp/mien PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --start-period=10s CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=3)"

# Everybody who can reach the port may use it: publish it to this machine only, set MIEN_TOKEN, or put a proxy in front of it.
CMD ["mien", "serve", "--host", "0.0.0.0"]
