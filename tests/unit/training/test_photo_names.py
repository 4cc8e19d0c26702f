import pytest

from ebseg.errors import DataError
from training.annotations.photo_names import PhotoFinder, Place, distinct_names, name_of


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
    assert name_of(Place(3), address) == name


def by_task(addresses: dict[int, str]) -> dict[Place, str]:
    return {Place(task): address for task, address in addresses.items()}


def test_names_differ_where_endings_are_cut_off():
    addresses = {1: "s3://left/a.jpg", 2: "s3://right/A.png", 3: "s3://left/b.jpg", 4: "s3://left/b.c.jpg"}
    names = {1: "task1-a.jpg", 2: "task2-A.png", 3: "b.jpg", 4: "b.c.jpg"}
    assert distinct_names(by_task(addresses)) == by_task(names)


def test_a_name_that_looks_numbered_is_nobody_elses():
    addresses = {3: "s3://top/task7-a.jpg", 7: "s3://left/a.jpg", 9: "s3://right/a.jpg"}
    names = distinct_names(by_task(addresses))
    assert names == by_task({3: "task3-task7-a.jpg", 7: "task7-a.jpg", 9: "task9-a.jpg"})
    assert all(PhotoFinder(by_task(addresses)).find(name) == place for place, name in names.items())


def test_photos_of_one_task_are_numbered_and_found_again():
    addresses = {
        Place(1): "s3://left/a.jpg",
        Place(1, 2): "s3://right/a.jpg",
        Place(1, 3): "data:image/png;base64,AA",
        Place(2, 12): "s3://left/task1.2-a.jpg",
        Place(3, 2): "s3://left/b.jpg",
    }
    names = distinct_names(addresses)
    assert list(names.values()) == [
        "task1-a.jpg", "task1.2-a.jpg", "task1.3", "task2.12-task1.2-a.jpg", "b.jpg",
    ]  # fmt: skip
    finder = PhotoFinder(addresses)
    assert {finder.find(name): name for name in names.values()} == names
    with pytest.raises(DataError, match=r"task 1 has 2 photos of this name; call it task1-..., or task1.2-"):
        finder.find("a.jpg")


@pytest.fixture
def tasks() -> PhotoFinder:
    return PhotoFinder(
        by_task(
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
    assert tasks.find(name) == Place(task)


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
    tasks = PhotoFinder({Place(number): f"s3://{number}/a.jpg" for number in range(1, 10)})
    with pytest.raises(DataError, match=r"9 tasks have a photo of this name \(1, 2, 3, 4, 5, ...\)"):
        tasks.find("a.jpg")
