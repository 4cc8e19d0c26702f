import pytest

from ebseg.errors import DataError
from training.annotations.photo_names import TaskFinder, distinct_names, name_of


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/1/0123abcd-a.jpg", "0123abcd-a.jpg"),
        ("/data/upload/1/0123abcd-%C3%A9t%C3%A9.jpg", "0123abcd-été.jpg"),
        ("/data/local-files/?d=street/left/a.jpg", "a.jpg"),
        ("https://studio.test/labels/data/local-files/?d=street/a.jpg", "a.jpg"),
        ("s3://bucket/street/e\u0301t\u00e9.png", "été.png"),
        ("https://photos.test/a.jpg?signature=secret", "a.jpg"),
        ("data:image/png;base64,AAAA/", "task3"),
        ("https://photos.test/", "task3"),
    ],
)
def test_photos_are_called_as_their_addresses_say(address, name):
    assert name_of(3, address) == name


def test_names_differ_where_endings_are_cut_off():
    addresses = {1: "s3://left/a.jpg", 2: "s3://right/A.png", 3: "s3://left/b.jpg", 4: "s3://left/b.c.jpg"}
    assert distinct_names(addresses) == {1: "task1-a.jpg", 2: "task2-A.png", 3: "b.jpg", 4: "b.c.jpg"}


def test_a_name_that_looks_numbered_is_nobody_elses():
    addresses = {3: "s3://top/task7-a.jpg", 7: "s3://left/a.jpg", 9: "s3://right/a.jpg"}
    names = distinct_names(addresses)
    assert names == {3: "task3-task7-a.jpg", 7: "task7-a.jpg", 9: "task9-a.jpg"}
    assert {task: TaskFinder(addresses).find(name) for task, name in names.items()} == {3: 3, 7: 7, 9: 9}


@pytest.fixture
def tasks() -> TaskFinder:
    return TaskFinder(
        {
            1: "/data/upload/1/0123abcd-street_1.jpg",
            2: "/data/upload/1/4567abcd-street_2.jpg",
            3: "/data/upload/1/89ababcd-street_2.jpg",
            4: "s3://left/1.png",
            5: "s3://right/1.png",
            6: "/data/upload/1/cdefabcd-st_johns%C3%A9_3.jpg",
            7: "s3://left/v1.2",
        }
    )


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("0123abcd-street_1.jpg", 1),
        ("0123abcd-street_1", 1),  # a label map's
        ("street_1.png", 1),  # before it was uploaded
        ("street 1.png", 1),
        ("ffffffff-street_1.jpg", 1),  # uploaded to another project
        ("89ababcd-street_2.jpg", 3),
        ("task5-1.png", 5),  # as it is exported
        ("st john's\u0065\u0301 (3).jpg", 6),
        ("v1.2", 7),
    ],
)
def test_a_task_is_found_by_its_photos_name(tasks, name, task):
    assert tasks.find(name) == task


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("street_2.jpg", r"2 tasks have a photo of this name \(2, 3\); rename it for one"),
        ("1.jpg", r"2 tasks have a photo of this name \(4, 5\)"),
        ("street_4.jpg", "no task has a photo of this name"),
        ("task6-1.png", "no task has a photo of this name"),
        ("v1", "no task has a photo of this name"),
        ("", "no task has a photo of this name"),
    ],
)
def test_no_task_is_guessed(tasks, name, message):
    with pytest.raises(DataError, match=message):
        tasks.find(name)


def test_many_tasks_of_one_name_are_not_all_listed():
    tasks = TaskFinder({number: f"s3://{number}/a.jpg" for number in range(1, 10)})
    with pytest.raises(DataError, match=r"9 tasks have a photo of this name \(1, 2, 3, 4, 5, ...\)"):
        tasks.find("a.jpg")
